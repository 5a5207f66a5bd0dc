//! What a program is to the engine: WebAssembly that runs anew for every request, in no process of its own.
//!
//! A guest (`contract::Guest`) lives and is spoken to; a program is opened once and then run, each time from its beginning
//! in memory that nobody has used. What is kept between two runs is its folder `/tmp`.
//!
//! Non-purpose: what a request means, and who sent it.
//! Start reading at `Program`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::{CodeDigest, Credentials};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::contract::Control;

/// The file of a package that is a program.
pub const PROGRAM_FILE: &str = "bootstrap.wasm";

/// What a program takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramKind {
    /// HTTP requests: it exports `wasi:http/incoming-handler`.
    Http,
    /// Standard input: it exports `wasi:cli/run`, or `_start` where it is a module.
    Command,
}

/// Everything that a program is opened with.
pub struct ProgramSpec {
    /// Folder below the code root that holds it, and that it sees at `/var/task`, read-only.
    pub code: CodeDigest,
    /// Folders below the code root, of which it sees one at most, at `/opt`, read-only.
    pub layers: Vec<CodeDigest>,
    /// Bytes of memory that may be used.
    pub memory_bytes: u64,
    /// Bytes of `/tmp`.
    pub tmp_bytes: u64,
    /// Whole environment: nothing of the server's own is added.
    pub environment: Vec<(String, String)>,
    /// What a command finds behind its own name.
    pub arguments: Vec<String>,
    /// What it writes to its standard error, and of what takes HTTP also to its standard output.
    pub lines: Arc<dyn Lines>,
    /// What it reaches.
    pub outside: Arc<dyn Outside>,
}

/// A program that can be run.
pub struct Opened {
    /// Runs it.
    pub program: Arc<dyn Program>,
    /// Ends, measures and waits.
    pub control: Arc<dyn Control>,
}

/// Where a program's log goes.
#[async_trait]
pub trait Lines: Send + Sync + 'static {
    /// Takes what was written. Whoever finds that there is no room writes anyway only what it has announced before.
    fn write(&self, bytes: &[u8]);

    /// Whether more can be taken now.
    fn has_room(&self) -> bool;

    /// Makes room.
    async fn make_room(&self);
}

/// A connection.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// Why nothing was reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// It may not be.
    #[error("{0}")]
    Refused(String),
    /// The name means nothing.
    #[error("{0}")]
    NoSuchName(String),
    /// Nobody answers.
    #[error("{0}")]
    Dial(String),
    /// The other side is not who it should be, or speaks no TLS.
    #[error("{0}")]
    Tls(String),
}

/// What a program reaches beside itself. The one way out of it.
#[async_trait]
pub trait Outside: Send + Sync + 'static {
    /// Connects to a name or address; through TLS, if asked for.
    ///
    /// # Errors
    /// Why nothing was reached.
    async fn connect(&self, host: &str, port: u16, tls: bool) -> Result<Box<dyn Connection>, Unreached>;

    /// Signs a request to a service (by its signing name: `dynamodb`), as who has these keys would.
    ///
    /// # Errors
    /// There is nothing to sign for, or what is to be signed makes no request.
    fn sign(
        &self,
        head: &mut http::request::Parts,
        body: &[u8],
        keys: &CallKeys,
        service: &str,
    ) -> Result<(), Unreached>;
}

/// What the calls are signed with that the platform makes on a program's behalf.
#[derive(Debug, Clone)]
pub struct CallKeys {
    /// The function's.
    pub credentials: Credentials,
    /// Where the services are.
    pub region: String,
}

impl CallKeys {
    /// Those that a program finds among its variables, if there are such.
    pub fn of(environment: &[(String, String)]) -> Option<Self> {
        let value = |wanted: &str| environment.iter().rfind(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let credentials = Credentials {
            access_key: value("AWS_ACCESS_KEY_ID")?,
            secret_key: value("AWS_SECRET_ACCESS_KEY")?,
            session_token: value("AWS_SESSION_TOKEN"),
            expires_at_ms: None,
        };
        Some(Self { credentials, region: value("AWS_REGION")? })
    }
}

/// Nothing is outside.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nowhere;

#[async_trait]
impl Outside for Nowhere {
    async fn connect(&self, host: &str, port: u16, _tls: bool) -> Result<Box<dyn Connection>, Unreached> {
        Err(Unreached::Refused(format!("{host}:{port} cannot be reached from here")))
    }

    fn sign(
        &self,
        _head: &mut http::request::Parts,
        _body: &[u8],
        _keys: &CallKeys,
        service: &str,
    ) -> Result<(), Unreached> {
        Err(Unreached::Refused(format!("there is no {service} here")))
    }
}

/// Who gets the answer of a program. What it returns says nothing: whoever is gone takes everything.
#[async_trait]
pub trait Reply: Send + 'static {
    /// The answer begins. Of a command there is no head.
    async fn head(&mut self, head: http::response::Parts);

    /// A piece of it.
    async fn piece(&mut self, bytes: Bytes);
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// It came to its end, and the answer is whole.
    Done,
    /// It ended itself with this code.
    Exited(i32),
    /// It did what nobody may, in these words.
    Trapped(String),
    /// Its memory was over.
    OutOfMemory,
    /// It does not keep to its interface, in these words.
    Broken(String),
    /// It never began: there are as many runs as there can be.
    NoRoom,
    /// It was ended from outside.
    Killed,
}

/// Something that runs anew for every request.
#[async_trait]
pub trait Program: Send + Sync + 'static {
    /// What it takes.
    fn kind(&self) -> ProgramKind;

    /// Runs it for one HTTP request, with variables beside its own. Dropping this ends the run.
    async fn request(
        &self,
        variables: Vec<(String, String)>,
        request: http::Request<Bytes>,
        reply: Box<dyn Reply>,
    ) -> RunEnd;

    /// Runs it once with this standard input, with variables beside its own. Its standard output is the answer. Dropping
    /// this ends the run.
    async fn command(&self, variables: Vec<(String, String)>, input: Bytes, reply: Box<dyn Reply>) -> RunEnd;
}
