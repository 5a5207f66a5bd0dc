//! The network of a sandbox, served from outside: its DNS and every TCP connection that it opens.
//!
//! | the guest connects to                         | it reaches                                             |
//! |-----------------------------------------------|--------------------------------------------------------|
//! | `GUEST_ENDPOINT` (in its AWS_ENDPOINT_URL)    | the platform, plain HTTP                               |
//! | a served AWS name, port 443                   | the platform, TLS with a leaf of the authority         |
//! | a served AWS name, port 80                    | the platform, plain HTTP                               |
//! | port 53 of any address                        | the platform's name server (`resolve`), as over UDP    |
//! | `ID.….localhost`, the platform's port         | the platform, plain HTTP                               |
//! | the X-Ray daemon's address, by datagrams      | a count (`segments`)                                   |
//! | a name or address that is opened to it        | that target, spliced                                   |
//! | any other name or address                     | that address if it is public and the function's policy |
//! |                                               | has it, spliced; else nothing                          |
//!
//! Names that the platform answers get synthetic addresses from 100.64.0.0/16, kept per sandbox. An accepted stream's
//! local address is the address that the guest wanted.
//!
//! Invariants
//!   1. A refusal is decided on the address that is dialled, after every look-up (`dial`, `egress`).
//!   2. The identity of a connection is the sandbox whose socket it came on.
//!   3. Dropping the guard ends everything and closes the sandbox's sockets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use model::{Egress, OpenTarget};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::dial::{Destination, Dialer, Resolver};
use crate::door::{GuestIdentity, Peer};
use crate::egress::{Rules, Say};
use crate::listener;
use crate::service::Gateway;
use crate::traffic::{self, Account, Pace, Traffic};

use resolve::Questions;

pub use program::{NotConnected, Stream, Visitor};

/// Host of the endpoint that sandboxes are given. A link-local address needs no look-up and names nothing else: a
/// sandbox has no link, and addresses of metadata services differ.
pub const GUEST_HOST: &str = "169.254.100.1";
/// What `AWS_ENDPOINT_URL` is set to inside a sandbox that has a network namespace.
pub const GUEST_ENDPOINT: &str = "http://169.254.100.1";
const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 100, 1);
const NAME_PORT: u16 = 53;
/// Most names that one sandbox gets synthetic addresses for.
const NAMES_MAX: u16 = 4_096;
/// Bytes a second that one sandbox may send and receive, if nobody says otherwise.
const BYTES_PER_SECOND: u64 = 75_000_000;

/// Settings of the guests' network.
#[derive(Debug, Clone)]
pub struct GuestNetworkConfig {
    /// Targets that are not public and yet open.
    pub open: Vec<OpenTarget>,
    /// Whether what a function's own policy names is open too.
    pub developer_opens: bool,
    /// Bytes a second that one sandbox may send and receive beside what goes to the platform.
    pub bytes_per_second: u64,
    /// Most connections of one sandbox at once.
    pub connections_max: usize,
}

impl Default for GuestNetworkConfig {
    fn default() -> Self {
        Self { open: Vec::new(), developer_opens: false, bytes_per_second: BYTES_PER_SECOND, connections_max: 1_024 }
    }
}

/// Serves the networks of sandboxes.
pub struct GuestNetworkService {
    gateway: Arc<Gateway>,
    tls: TlsAcceptor,
    dialer: Dialer,
    traffic: Arc<Traffic>,
    config: GuestNetworkConfig,
}

/// A sandbox's network while it is served. Dropping it ends every connection.
#[derive(Debug)]
pub struct GuestNetworkGuard {
    _ending: DropGuard,
}

impl GuestNetworkService {
    /// A service that answers AWS names with `tls` (see `tls::of_authority`).
    pub fn new(
        gateway: Arc<Gateway>,
        tls: TlsAcceptor,
        resolver: Arc<dyn Resolver>,
        config: GuestNetworkConfig,
    ) -> Arc<Self> {
        Arc::new(Self { gateway, tls, dialer: Dialer::new(resolver), traffic: Arc::default(), config })
    }

    /// What guests' own connections have carried.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Serves one sandbox by its function's policy until the guard is dropped. Must be called within a tokio runtime.
    pub fn serve(
        self: &Arc<Self>,
        identity: GuestIdentity,
        egress: Egress,
        tcp: Vec<TcpListener>,
        dns: Option<UdpSocket>,
        traces: Option<UdpSocket>,
    ) -> GuestNetworkGuard {
        let ending = CancellationToken::new();
        let guest = Arc::new(Guest {
            service: self.clone(),
            identity: Arc::new(identity),
            names: Mutex::new(Names::default()),
            rules: Rules { egress, open: self.config.open.clone(), developer_opens: self.config.developer_opens },
            pace: Pace::new(self.config.bytes_per_second),
            questions: Questions::new(),
            ending: ending.clone(),
        });
        let room = Arc::new(Semaphore::new(self.config.connections_max));
        for listener in tcp {
            tokio::spawn(guest.clone().accept(listener, room.clone()));
        }
        if let Some(socket) = dns {
            let (guest, ending) = (guest.clone(), ending.clone());
            tokio::spawn(async move { ending.run_until_cancelled(guest.answer_datagrams(Arc::new(socket))).await });
        }
        if let Some(socket) = traces {
            let (guest, ending) = (guest, ending.clone());
            tokio::spawn(async move { ending.run_until_cancelled(guest.take_segments(socket)).await });
        }
        GuestNetworkGuard { _ending: ending.drop_guard() }
    }
}

/// What a synthetic address stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meaning {
    /// A name that the platform answers.
    Platform,
    /// A name that is looked up when it is dialled.
    Outside(String),
}

#[derive(Debug, Default)]
struct Names {
    by_name: HashMap<String, Ipv4Addr>,
    by_address: HashMap<Ipv4Addr, Meaning>,
}

impl Names {
    /// The address of a name; always the same within one sandbox.
    fn address(&mut self, name: &str, meaning: Meaning) -> Option<Ipv4Addr> {
        if let Some(address) = self.by_name.get(name) {
            return Some(*address);
        }
        let next = u16::try_from(self.by_name.len() + 1).ok().filter(|next| *next <= NAMES_MAX)?;
        let [high, low] = next.to_be_bytes();
        let address = Ipv4Addr::new(100, 64, high, low);
        self.by_name.insert(name.to_owned(), address);
        self.by_address.insert(address, meaning);
        Some(address)
    }
}

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plan {
    Platform {
        tls: bool,
    },
    /// Its questions are answered here, whichever name server it believes in.
    Names,
    Dial(Destination),
    Refuse,
}

/// Decides over a connection by the address that was wanted. Pure.
fn plan(wanted: SocketAddr, meaning: Option<&Meaning>, platform_port: u16) -> Plan {
    let address = wanted.ip().to_canonical();
    if address == IpAddr::V4(GUEST_ADDRESS) && wanted.port() != NAME_PORT {
        return if wanted.port() == 80 { Plan::Platform { tls: false } } else { Plan::Refuse };
    }
    match (meaning, wanted.port()) {
        (None, NAME_PORT) => Plan::Names,
        (Some(Meaning::Platform), 443) => Plan::Platform { tls: true },
        (Some(Meaning::Platform), port) if port == 80 || port == platform_port => Plan::Platform { tls: false },
        (Some(Meaning::Platform), _) => Plan::Refuse,
        (Some(Meaning::Outside(name)), port) => Plan::Dial(Destination::Name(name.clone(), port)),
        (None, port) => Plan::Dial(Destination::Address(SocketAddr::new(address, port))),
    }
}

/// Ends a connection so that its client is told of an error. A mere end would be an empty answer to it: Node.js then waits
/// for nothing any more, and a function's call ends in the middle.
fn reset(stream: TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a refused connection ends without a reset");
    }
}

struct Guest {
    service: Arc<GuestNetworkService>,
    identity: Arc<GuestIdentity>,
    names: Mutex<Names>,
    rules: Rules,
    pace: Pace,
    questions: Questions,
    ending: CancellationToken,
}

impl Guest {
    async fn accept(self: Arc<Self>, listener: TcpListener, room: Arc<Semaphore>) {
        while let Some((stream, _, permit)) = listener::accept(&listener, &room, &self.ending).await {
            let guest = self.clone();
            tokio::spawn(async move {
                if let Ok(wanted) = stream.local_addr() {
                    guest.ending.run_until_cancelled(guest.connect(stream, wanted)).await;
                }
                drop(permit);
            });
        }
    }

    async fn connect(&self, stream: TcpStream, wanted: SocketAddr) {
        let meaning = match wanted.ip().to_canonical() {
            IpAddr::V4(address) => self.names.lock().by_address.get(&address).cloned(),
            IpAddr::V6(_) => None,
        };
        match plan(wanted, meaning.as_ref(), self.service.gateway.config().port) {
            // A name server that is opened to the function is asked itself.
            Plan::Names if self.rules.say_address(wanted) == Say::Open => {
                self.splice(stream, &Destination::Address(wanted)).await;
            }
            Plan::Names => self.answer_stream(stream).await,
            Plan::Platform { tls } => self.serve(stream, wanted, tls).await,
            Plan::Dial(to) => self.splice(stream, &to).await,
            Plan::Refuse => {
                tracing::debug!(function = %self.identity.function.arn(), %wanted, "refused");
                reset(stream);
            }
        }
    }

    async fn serve(&self, stream: TcpStream, wanted: SocketAddr, tls: bool) {
        let Ok(address) = stream.peer_addr() else { return };
        let guest = Some(self.identity.clone());
        let peer = Peer { address, secure: tls, port: wanted.port(), guest, spelling: None };
        let acceptor = tls.then(|| self.service.tls.clone());
        let serving = listener::serve(self.service.gateway.clone(), stream, peer, acceptor, self.ending.clone());
        base::repolled(serving).await;
    }

    /// Connects to the destination and copies both ways.
    async fn splice(&self, stream: TcpStream, to: &Destination) {
        let function = self.identity.function.arn();
        let service = &self.service;
        let mut account =
            Account::open(service.traffic.clone(), service.gateway.clock.clone(), function, to.to_string());
        match service.dialer.dial(&self.rules, to).await {
            Ok((outside, address)) => {
                account.reached(address);
                let (_, _) = (stream.set_nodelay(true), outside.set_nodelay(true));
                traffic::relay(stream, outside, &self.pace, &account).await;
            }
            Err(why) => {
                tracing::debug!(function = %self.identity.function.arn(), %to, %why, "not reached");
                account.refused(why.to_string());
                reset(stream);
            }
        }
    }
}

mod program;
mod resolve;
mod segments;
#[cfg(test)]
mod tests;
