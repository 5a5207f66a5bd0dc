//! Images of the platform's own, as `dunlin images` brings them.
//!
//! | path                               | does                                                                  |
//! |------------------------------------|-----------------------------------------------------------------------|
//! | `GET /_dunlin/images`              | lists them                                                            |
//! | `POST /_dunlin/images/layers`      | begins to take the layer `digest`; answers its `push`, or null: it is here |
//! | `PUT /_dunlin/images/layers/PUSH?at=N` | takes the piece of the layer that begins at byte N                |
//! | `POST /_dunlin/images/layers/PUSH` | ends the layer                                                        |
//! | `PUT /_dunlin/images/named?NAME`   | names an image: `manifest` and `config`, in base64                    |
//! | `DELETE /_dunlin/images/named?NAME` | takes the name away                                                  |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value as Json, json};
use services::lambda::{Functions, PushError};

use crate::admin::Refusal;

/// What all of it lies below.
pub const PATH: &str = "/_dunlin/images";

fn wrong(words: impl ToString) -> Refusal {
    (StatusCode::BAD_REQUEST, words.to_string())
}

fn refusal(problem: PushError) -> Refusal {
    let status = match problem {
        PushError::Wrong(_) => StatusCode::BAD_REQUEST,
        PushError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, problem.to_string())
}

/// Answers a call of the operator's.
///
/// # Errors
/// The call is wrong, or the platform has failed.
pub async fn answer(functions: &Functions, parts: &Parts, body: Bytes) -> Result<Json, Refusal> {
    let rest = parts.uri.path().strip_prefix(PATH).unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default();
    match (&parts.method, rest.split('/').skip(1).collect::<Vec<_>>().as_slice()) {
        (&Method::GET, []) => list(functions).await,
        (&Method::POST, ["layers"]) => {
            let asked: Json = serde_json::from_slice(&body).map_err(wrong)?;
            let push = functions.begin_layer(asked["digest"].as_str().unwrap_or_default()).await;
            Ok(json!({"push": push.map_err(refusal)?}))
        }
        (&Method::PUT, ["layers", push]) => {
            let at = query.strip_prefix("at=").and_then(|text| text.parse().ok());
            let at = at.ok_or_else(|| wrong("say where the piece begins: ?at=N"))?;
            functions.push_layer(push, at, body).await.map_err(refusal)?;
            Ok(json!({}))
        }
        (&Method::POST, ["layers", push]) => {
            functions.finish_layer(push).await.map_err(refusal)?;
            Ok(json!({}))
        }
        (&Method::PUT, ["named"]) => {
            let asked: Json = serde_json::from_slice(&body).map_err(wrong)?;
            let part = |name: &str| BASE64.decode(asked[name].as_str().unwrap_or_default()).map_err(wrong);
            let digest = functions.put_image(query, &part("manifest")?, &part("config")?).await;
            Ok(json!({"digest": digest.map_err(refusal)?}))
        }
        (&Method::DELETE, ["named"]) => match functions.remove_image(query).await.map_err(refusal)? {
            true => Ok(json!({})),
            false => Err((StatusCode::NOT_FOUND, format!("there is no image {query}"))),
        },
        _ => Err((StatusCode::NOT_FOUND, format!("there is no {} {}", parts.method, parts.uri.path()))),
    }
}

async fn list(functions: &Functions) -> Result<Json, Refusal> {
    let images = functions.images().await.map_err(refusal)?;
    let shown = |image: services::lambda::ShownImage| {
        json!({
            "name": image.name, "digest": image.digest, "layers": image.layers, "bytes": image.bytes,
            "pushedMs": image.pushed_ms,
        })
    };
    Ok(json!({"images": images.into_iter().map(shown).collect::<Vec<_>>()}))
}
