//! Functions that are programs, as answers tell of them: a program is compiled before it can run. Pure.
//!
//! Not here: compiling; the engine of each node does that. A function can be called meanwhile, the call then waits.

use model::{CodeDigest, ProgramState};
use serde_json::{Value, json};

/// Where a configuration on its way out has the digest of its program's package. No answer has it.
pub(super) const MARK: &str = "Program";

/// The configuration in an answer, if it is of a program; with it the package. The mark is gone afterwards.
pub(super) fn taken_from(output: &mut Value) -> Option<(CodeDigest, &mut Value)> {
    let is_whole = output.get("Configuration").is_some_and(Value::is_object);
    let configuration = if is_whole { &mut output["Configuration"] } else { output };
    let code = configuration.as_object_mut()?.shift_remove(MARK)?;
    Some((CodeDigest::parse(code.as_str()?)?, configuration))
}

/// Says in a configuration how far the program is. Both states say it: clients wait for the one after a creation, for the
/// other after an update.
pub(super) fn show(configuration: &mut Value, state: ProgramState) {
    let (states, code, reason) = match state {
        ProgramState::Open | ProgramState::Ready => return,
        ProgramState::Pending => {
            (["Pending", "InProgress"], ["Creating", "Creating"], "The program is being compiled.".to_owned())
        }
        ProgramState::Unfit(reason) => (
            ["Failed", "Failed"],
            ["InvalidZipFileException", "InvalidZipFileException"],
            format!("The function's bootstrap.wasm cannot be run: {reason}"),
        ),
    };
    configuration["State"] = json!(states[0]);
    configuration["StateReasonCode"] = json!(code[0]);
    configuration["StateReason"] = json!(reason);
    configuration["LastUpdateStatus"] = json!(states[1]);
    configuration["LastUpdateStatusReasonCode"] = json!(code[1]);
    configuration["LastUpdateStatusReason"] = json!(reason);
}
