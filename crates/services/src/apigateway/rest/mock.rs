//! `MOCK` integrations: the fixed answer that their templates and responses come to. Pure.
//!
//! Templates with directives or variables (VTL) are refused: they are programs, and running only some would be a lie.

use std::collections::BTreeMap;

use aws::Error;
use model::http_api;

use super::record::{Integration, IntegrationResponse};

const JSON: &str = "application/json";
const HEADER: &str = "method.response.header.";

/// Refuses request templates that cannot be read.
pub(super) fn check_request(integration: &Integration) -> Result<(), Error> {
    status_of(integration).map(|_| ())
}

/// The answer.
pub(super) fn answer(integration: &Integration) -> Result<http_api::Integration, Error> {
    let status = status_of(integration)?;
    let Some(response) = chosen(integration, status) else {
        let body = r#"{"message": "Internal server error"}"#.to_owned();
        return Ok(http_api::Integration::Mock { status: 500, headers: json_type(), body });
    };
    let mut headers = json_type();
    for (name, value) in &response.response_parameters {
        let Some(header) = name.strip_prefix(HEADER) else { continue };
        let fixed = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
        let Some(fixed) = fixed else {
            return Err(Error::not_implemented(format_args!("the response parameter {name} = {value}")));
        };
        headers.retain(|kept, _| !kept.eq_ignore_ascii_case(header));
        headers.insert(header.to_owned(), fixed.to_owned());
    }
    let body = response.response_templates.get(JSON).cloned().unwrap_or_default();
    fixed_text(&body)?;
    let status = response.status_code.parse().unwrap_or(status);
    Ok(http_api::Integration::Mock { status, headers, body })
}

fn json_type() -> BTreeMap<String, String> {
    BTreeMap::from([("Content-Type".to_owned(), JSON.to_owned())])
}

/// The `statusCode` that the request template names, 200 where there is none.
fn status_of(integration: &Integration) -> Result<u16, Error> {
    let Some(template) = integration.request_templates.get(JSON) else { return Ok(200) };
    fixed_text(template)?;
    let digits = template.split_once("statusCode").map(|(_, rest)| {
        let rest = rest.trim_start_matches(|c: char| c == '"' || c == '\'' || c == ':' || c.is_whitespace());
        &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())]
    });
    Ok(digits.and_then(|digits| digits.parse().ok()).unwrap_or(200))
}

/// The response whose pattern fits the status; else the one without a pattern.
fn chosen(integration: &Integration, status: u16) -> Option<&IntegrationResponse> {
    let responses = || integration.integration_responses.values();
    let pattern = |response: &IntegrationResponse| response.selection_pattern.clone().filter(|text| !text.is_empty());
    let fits = |response: &&IntegrationResponse| {
        pattern(response)
            .and_then(|pattern| regex_lite::Regex::new(&format!("^(?:{pattern})$")).ok())
            .is_some_and(|pattern| pattern.is_match(&status.to_string()))
    };
    responses().find(fits).or_else(|| responses().find(|response| pattern(response).is_none()))
}

/// Refuses a template that is more than text.
fn fixed_text(template: &str) -> Result<(), Error> {
    let directive =
        ["#set", "#if", "#foreach", "#else", "#end", "#define", "##", "#*"].iter().any(|d| template.contains(d));
    let mut after_dollar = template.split('$').skip(1);
    let variable =
        after_dollar.any(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '{' | '!' | '_')));
    if directive || variable {
        return Err(Error::not_implemented("mapping templates with directives or variables"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integration(template: Option<&str>, responses: &[(&str, Option<&str>, &str)]) -> Integration {
        let responses = responses.iter().map(|(status, pattern, body)| {
            let response = IntegrationResponse {
                status_code: (*status).into(),
                selection_pattern: pattern.map(str::to_owned),
                response_parameters: BTreeMap::from([(
                    "method.response.header.Access-Control-Allow-Origin".to_owned(),
                    "'*'".to_owned(),
                )]),
                response_templates: BTreeMap::from([(JSON.to_owned(), (*body).to_owned())]),
            };
            ((*status).to_owned(), response)
        });
        Integration {
            kind: "MOCK".into(),
            http_method: None,
            uri: None,
            connection_type: None,
            request_parameters: BTreeMap::new(),
            request_templates: template.map(|text| (JSON.to_owned(), text.to_owned())).into_iter().collect(),
            passthrough_behavior: "WHEN_NO_MATCH".into(),
            timeout_in_millis: 29_000,
            cache_namespace: String::new(),
            cache_key_parameters: Vec::new(),
            integration_responses: responses.collect(),
        }
    }

    #[test]
    fn a_preflight_is_a_fixed_answer() {
        for template in [None, Some("{statusCode:200}"), Some("{\"statusCode\": 200}"), Some("{ 'statusCode' : 200 }")]
        {
            let answer = answer(&integration(template, &[("200", None, "")])).unwrap();
            let http_api::Integration::Mock { status, headers, body } = answer else { panic!("not a mock") };
            assert_eq!((status, body.as_str()), (200, ""));
            assert_eq!(headers["Access-Control-Allow-Origin"], "*");
        }
    }

    #[test]
    fn the_status_chooses_the_response() {
        let both = [("200", None, "ok"), ("404", Some("4\\d{2}"), "gone")];
        let status = |template| match answer(&integration(Some(template), &both)).unwrap() {
            http_api::Integration::Mock { status, body, .. } => (status, body),
            other => panic!("{other:?}"),
        };
        assert_eq!(status("{\"statusCode\": 404}"), (404, "gone".to_owned()));
        assert_eq!(status("{\"statusCode\": 301}"), (200, "ok".to_owned()));
    }

    #[test]
    fn programs_are_refused() {
        for body in ["#set($x = 1)", "$input.body", "${context.requestId}", "$!x"] {
            let error = answer(&integration(None, &[("200", None, body)])).unwrap_err();
            assert_eq!(error.status, 501, "{body}");
        }
        assert!(answer(&integration(None, &[("200", None, "costs 5$ #1")])).is_ok());
    }
}
