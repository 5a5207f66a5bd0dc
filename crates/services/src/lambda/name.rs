//! Which function a caller means: the forms that a `FunctionName` may take. Pure.
//!
//! Forms: the full ARN, and `[REGION:][ACCOUNT:][function:]name[:qualifier]`, as the service model's pattern has them.
//! The qualifier may stand in the name or beside it; where it stands in both, both must say the same.

use aws::{Call, Error};
use model::{AccountId, FunctionName, FunctionRef, Region};

use super::error;
use super::record::LATEST;

/// The function of a call that names one in `FunctionName` and, maybe, `Qualifier`.
pub(super) fn of_call(call: &Call) -> Result<FunctionRef, Error> {
    let name = call.text("FunctionName").unwrap_or_default();
    parse(name, call.text("Qualifier"), &call.principal.account, &call.region)
        .map_err(|problem| problem.into_error(name, call))
}

/// The same for what a function's policy may let callers of other accounts do.
pub(super) fn of_any_account(call: &Call) -> Result<FunctionRef, Error> {
    let name = call.text("FunctionName").unwrap_or_default();
    match parse(name, call.text("Qualifier"), &call.principal.account, &call.region) {
        Err(Problem::Account(function)) => Ok(function),
        other => other.map_err(|problem| problem.into_error(name, call)),
    }
}

/// The function of a call that allows no qualifier beyond `$LATEST`.
pub(super) fn unqualified(call: &Call) -> Result<FunctionRef, Error> {
    let mut function = of_call(call)?;
    match function.qualifier.take() {
        None => Ok(function),
        Some(latest) if latest == LATEST => Ok(function),
        Some(qualifier) => {
            function.qualifier = Some(qualifier);
            Err(error::invalid(format!(
                "This operation is permitted on unqualified function names only: {}",
                function.arn()
            )))
        }
    }
}

/// Why a text names no function here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    /// No form fits.
    Form,
    /// The name is too long.
    TooLong,
    /// Two qualifiers that differ.
    Qualifiers,
    /// Another region's function.
    Region(String),
    /// Another account's function.
    Account(FunctionRef),
}

impl Problem {
    fn into_error(self, text: &str, call: &Call) -> Error {
        match self {
            Self::Form => error::constraint(
                text,
                "functionName",
                "Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1}:)?(\\d{12}:)?(function:)?([a-zA-Z0-9-_\\.]+)(:(\\$LATEST(\\.PUBLISHED)?|[a-zA-Z0-9-_]+))?",
            ),
            Self::TooLong => {
                error::constraint(text, "functionName", "Member must have length less than or equal to 64")
            }
            Self::Qualifiers => {
                error::invalid("The derived qualifier from the function name does not match the specified qualifier.")
            }
            Self::Region(region) => error::not_found(format!(
                "Functions from '{region}' are not reachable in this region ('{}')",
                call.region
            )),
            Self::Account(function) => error::denied(format!(
                "User: {} is not authorized to perform: lambda:{} on resource: {arn} because no resource-based policy allows the lambda:{} action",
                call.principal.arn,
                call.operation,
                call.operation,
                arn = function.arn()
            )),
        }
    }
}

/// The function that `text` and `qualifier` name for a caller of this account and region.
pub(super) fn parse(
    text: &str,
    qualifier: Option<&str>,
    account: &AccountId,
    region: &Region,
) -> Result<FunctionRef, Problem> {
    let mut function = match text.strip_prefix("arn:") {
        Some(_) => FunctionRef::parse_arn(text).ok_or(Problem::Form)?,
        None => partial(text, account, region)?,
    };
    if let (Some(in_name), Some(beside)) = (function.qualifier.as_deref(), qualifier)
        && in_name != beside
    {
        return Err(Problem::Qualifiers);
    }
    if function.qualifier.is_none() {
        function.qualifier = qualifier.filter(|text| !text.is_empty()).map(str::to_owned);
    }
    if function.region != *region {
        return Err(Problem::Region(function.region.to_string()));
    }
    if function.account != *account {
        return Err(Problem::Account(function));
    }
    Ok(function)
}

fn partial(text: &str, account: &AccountId, region: &Region) -> Result<FunctionRef, Problem> {
    let mut parts: Vec<&str> = text.split(':').collect();
    // What is left of them is a name and maybe a qualifier.
    let mut lead = |fits: &dyn Fn(&str) -> bool| (parts.len() > 1 && fits(parts[0])).then(|| parts.remove(0));
    let place = lead(&is_region);
    let owner = lead(&|part| AccountId::parse(part).is_some());
    lead(&|part| part == "function");
    let (name, qualifier) = match *parts.as_slice() {
        [name] => (name, None),
        [name, qualifier] if !qualifier.is_empty() => (name, Some(qualifier)),
        _ => return Err(Problem::Form),
    };
    let account = owner.and_then(AccountId::parse).unwrap_or_else(|| account.clone());
    let region = place.and_then(Region::parse).unwrap_or_else(|| region.clone());
    let Some(name) = FunctionName::parse(name) else {
        return Err(if name.len() > 64 { Problem::TooLong } else { Problem::Form });
    };
    Ok(FunctionRef { account, region, name, qualifier: qualifier.map(str::to_owned) })
}

/// Whether a part has the form of a region, `us-gov-west-1`. Names of functions may have it too, if nothing follows them.
fn is_region(part: &str) -> bool {
    let pieces: Vec<&str> = part.strip_prefix("eusc-").unwrap_or(part).split('-').collect();
    let letters = |piece: &str| !piece.is_empty() && piece.bytes().all(|byte| byte.is_ascii_lowercase());
    let (land, kind, area, number) = match *pieces.as_slice() {
        [land, area, number] => (land, "", area, number),
        [land, kind, area, number] => (land, kind, area, number),
        _ => return false,
    };
    let is_kind = matches!(kind, "" | "gov") || kind.strip_prefix("iso").is_some_and(|rest| rest.len() < 2);
    let is_number = number.len() == 1 && number.bytes().all(|byte| byte.is_ascii_digit());
    land.len() == 2 && letters(land) && is_kind && letters(area) && is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, qualifier: Option<&str>) -> Result<String, Problem> {
        parse(text, qualifier, &AccountId::default(), &Region::default()).map(|function| function.arn())
    }

    #[test]
    fn every_form_names_the_same_function() {
        let plain = "arn:aws:lambda:us-east-1:000000000000:function:f";
        for form in [
            "f",
            "function:f",
            "000000000000:f",
            "000000000000:function:f",
            "us-east-1:f",
            "us-east-1:function:f",
            "us-east-1:000000000000:function:f",
            plain,
        ] {
            assert_eq!(read(form, None).unwrap(), plain, "{form}");
            assert_eq!(read(form, Some("$LATEST")).unwrap(), format!("{plain}:$LATEST"), "{form}");
            assert_eq!(read(&format!("{form}:live"), None).unwrap(), format!("{plain}:live"), "{form}");
            assert_eq!(read(&format!("{form}:live"), Some("live")).unwrap(), format!("{plain}:live"), "{form}");
            assert_eq!(read(&format!("{form}:live"), Some("2")), Err(Problem::Qualifiers), "{form}");
        }
    }

    #[test]
    fn other_places_and_wrong_forms_are_told_apart() {
        assert_eq!(
            read("arn:aws:lambda:eu-west-1:000000000000:function:f", None),
            Err(Problem::Region("eu-west-1".into()))
        );
        for form in ["us-gov-west-1:f", "us-isob-east-1:000000000000:f", "eusc-de-east-1:function:f"] {
            assert!(matches!(read(form, None), Err(Problem::Region(_))), "{form}");
        }
        for form in ["123456789012:function:f", "123456789012:f"] {
            assert!(matches!(read(form, None), Err(Problem::Account(_))), "{form}");
        }
        for alone in ["us-east-1", "000000000000", "function"] {
            assert_eq!(read(alone, None).unwrap(), format!("arn:aws:lambda:us-east-1:000000000000:function:{alone}"));
        }
        assert_eq!(read(&"x".repeat(65), None), Err(Problem::TooLong));
        for wrong in ["", "a b", "f:", "a:b:c:d:e", "arn:aws:lambda:us-east-1:0:function:f", "arn:aws:s3:::f"] {
            assert_eq!(read(wrong, None), Err(Problem::Form), "{wrong}");
        }
    }
}
