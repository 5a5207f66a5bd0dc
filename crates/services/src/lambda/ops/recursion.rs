//! PutFunctionRecursionConfig, GetFunctionRecursionConfig: whether a chain of calls may come back as often as it likes.

use aws::{Call, Error, Reply};
use serde_json::json;

use crate::lambda::{Functions, name};

fn shown(allows: bool) -> Reply {
    Reply::of(json!({"RecursiveLoop": if allows { "Allow" } else { "Terminate" }}))
}

/// PutFunctionRecursionConfig. It holds for every version of the function.
pub(in crate::lambda) async fn put(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "RecursiveLoop"])?;
    let function = name::unqualified(call)?;
    let allows = call.text("RecursiveLoop") == Some("Allow");
    functions
        .change(&function, |record, _| {
            record.allows_recursion = allows;
            Ok(())
        })
        .await?;
    Ok(shown(allows))
}

/// GetFunctionRecursionConfig.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName"])?;
    Ok(shown(functions.existing(&name::unqualified(call)?).await?.allows_recursion))
}
