//! The protocol against a scripted transport.

use super::*;

type Seen = (String, Option<String>);
/// Status, headers and body.
type Said = (u16, Vec<(&'static str, String)>, String);
/// What is said about an address and `Authorization`.
type Answers = dyn Fn(&str, Option<&str>) -> Said + Send + Sync;

/// Answers by a function of address and `Authorization`, and keeps what was asked.
struct Script {
    answer: Box<Answers>,
    seen: Mutex<Vec<Seen>>,
}

struct Once(Option<Bytes>);

#[async_trait]
impl Pieces for Once {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        Ok(self.0.take())
    }
}

#[async_trait]
impl Transport for Script {
    async fn get(&self, uri: &Uri, headers: HeaderMap) -> Result<Answer, Error> {
        let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let (status, said, body) = (self.answer)(&uri.to_string(), authorization.as_deref());
        self.seen.lock().push((uri.to_string(), authorization));
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.append(name, value.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        Ok(Answer { status, headers, body: Box::new(Once(Some(body.into()))) })
    }
}

fn script(answer: impl Fn(&str, Option<&str>) -> Said + Send + Sync + 'static) -> Arc<Script> {
    Arc::new(Script { answer: Box::new(answer), seen: Mutex::default() })
}

fn place(registry: &str) -> Place {
    Place { registry: registry.into(), repository: "a/b".into() }
}

const LOGIN: &str = r#"{"auths": {"r.example": {"username": "u", "password": "p"}}}"#;

#[tokio::test]
async fn a_token_is_asked_for_once_and_anew_when_it_is_too_old() {
    let transport = script(|uri, authorization| {
        if uri.starts_with("https://auth.example/") {
            assert_eq!(uri, "https://auth.example/t?x=1&service=r&scope=repository%3Aa%2Fb%3Apull");
            assert_eq!(authorization, Some("Basic dTpw"));
            return (200, vec![], r#"{"token": "T"}"#.into());
        }
        match authorization {
            Some("Bearer T") => (200, vec![("content-type", "text/x".into())], "hello".into()),
            _ => (
                401,
                vec![(
                    "www-authenticate",
                    "Bearer realm=\"https://auth.example/t?x=1\",service=\"r\",scope=\"q,r\"".into(),
                )],
                "".into(),
            ),
        }
    });
    let registry = Registry::new(transport.clone(), Credentials::read(LOGIN).unwrap());
    for _ in 0..2 {
        let fetched = registry.document(&place("r.example"), "latest").await.unwrap();
        assert_eq!((&fetched.bytes[..], fetched.media_type.as_deref()), (&b"hello"[..], Some("text/x")));
    }
    let asked: Vec<String> = transport.seen.lock().iter().map(|(uri, _)| uri.clone()).collect();
    let document = "https://r.example/v2/a/b/manifests/latest";
    assert_eq!(
        asked,
        [document, "https://auth.example/t?x=1&service=r&scope=repository%3Aa%2Fb%3Apull", document, document]
    );
}

#[tokio::test]
async fn passwords_go_to_nobody_else() {
    // A redirection to another host.
    let transport = script(|uri, authorization| match (uri, authorization) {
        ("https://cdn.example/x", _) => (200, vec![], "blob".into()),
        (_, Some("Basic dTpw")) => (307, vec![("location", "https://cdn.example/x".into())], "".into()),
        _ => (401, vec![("www-authenticate", "Basic realm=x".into())], "".into()),
    });
    let registry = Registry::new(transport.clone(), Credentials::read(LOGIN).unwrap());
    let digest = Digest::of(b"blob");
    assert_eq!(&registry.small_blob(&place("r.example"), &digest).await.unwrap()[..], b"blob");
    assert_eq!(transport.seen.lock().last().unwrap(), &("https://cdn.example/x".to_owned(), None));
    // Another registry.
    assert_eq!(registry.document(&place("s.example"), "t").await.unwrap_err(), Error::Denied);
    assert!(transport.seen.lock().iter().all(|(uri, sent)| !uri.contains("s.example") || sent.is_none()));
}

#[tokio::test]
async fn clear_text_is_for_this_machine_only() {
    for (registry, uri) in [
        ("localhost:5000", "http://localhost:5000/"),
        ("127.0.0.1", "http://127.0.0.1/"),
        ("[::1]:5000", "http://[::1]:5000/"),
        ("localhost.example", "https://localhost.example/"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000/"),
    ] {
        let transport = script(|_, _| (200, vec![], String::new()));
        let client = Registry::new(transport.clone(), Credentials::default());
        client.document(&place(registry), "t").await.unwrap();
        assert!(transport.seen.lock()[0].0.starts_with(uri), "{registry}");
    }
    for to in ["http://other.example/x", "ftp://localhost/x", "//other.example/x", "", "https:///x"] {
        let transport = script(move |uri, _| match uri.contains("r.example") {
            true => (302, vec![("location", to.to_owned())], String::new()),
            false => panic!("{uri}"),
        });
        let client = Registry::new(transport, Credentials::default());
        assert!(client.document(&place("r.example"), "t").await.is_err(), "{to}");
    }
    let transport = script(|_, _| (302, vec![("location", "/again".into())], String::new()));
    let client = Registry::new(transport.clone(), Credentials::default());
    assert!(matches!(client.document(&place("r.example"), "t").await, Err(Error::Failed(_))));
    assert_eq!(transport.seen.lock().len(), REDIRECTIONS_MAX + 1);
}

#[tokio::test]
async fn what_has_another_digest_is_refused() {
    let transport = script(|_, _| (200, vec![], "other".into()));
    let client = Registry::new(transport, Credentials::default());
    let (right, wrong) = (Digest::of(b"other"), Digest::of(b"wanted"));
    assert!(client.document(&place("r.example"), &right.to_string()).await.is_ok());
    assert!(matches!(client.document(&place("r.example"), &wrong.to_string()).await, Err(Error::Failed(_))));
    assert!(matches!(client.small_blob(&place("r.example"), &wrong).await, Err(Error::Failed(_))));
}

#[tokio::test]
async fn answers_are_told_apart() {
    for (status, wanted) in
        [(404, Some(Error::NotFound)), (403, Some(Error::Denied)), (401, Some(Error::Denied)), (503, None)]
    {
        let client = Registry::new(script(move |_, _| (status, vec![], String::new())), Credentials::default());
        let error = client.document(&place("r.example"), "t").await.unwrap_err();
        assert!(wanted.map_or(matches!(error, Error::Failed(_)), |wanted| wanted == error), "{status}");
    }
    let long = Registry::new(script(|_, _| (200, vec![], "x".repeat(DOCUMENT_BYTES_MAX + 1))), Credentials::default());
    assert!(matches!(long.document(&place("r.example"), "t").await, Err(Error::Failed(_))));
}

#[test]
fn challenges_are_read() {
    let read = Challenge::read("Bearer realm=\"https://a/t\", service=r ,scope=\"a:b:pull,push\"").unwrap();
    assert_eq!(
        (read.scheme.as_str(), read.value("realm"), read.value("scope")),
        ("bearer", Some("https://a/t"), Some("a:b:pull,push"))
    );
    assert_eq!(Challenge::read("Basic").unwrap().scheme, "basic");
    assert_eq!(Challenge::read("Bearer realm=\"open"), None);
}
