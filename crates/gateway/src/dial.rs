//! Dials what a tenant named: the one place of the platform from which connections leave that a tenant can cause.
//!
//! A name is looked up once; each of its addresses is judged; and the address that was judged is the one that is dialled.
//! So neither a name that changes its address between two look-ups nor a redirect leads anywhere that rules do not.
//!
//! Start reading at `Dialer::dial`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpStream;

use crate::dns::Records;
use crate::egress::{self, Refused, Rules, Say};
use crate::name_servers;

/// The name of this host for functions, where ports of it are open to them.
pub const HOST_NAME: &str = "host.dunlin.internal";

const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks names up outside of the sandbox.
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    /// The addresses of a name.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, LookUpError>;

    /// What name servers say to a question (`dns::Query::question`) about other records than addresses.
    async fn records(&self, question: &[u8]) -> Result<Records, LookUpError>;
}

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookUpError {
    /// There is no such name.
    #[error("there is no such name")]
    NoSuchName,
    /// It is not known now.
    #[error("the name cannot be looked up now")]
    Failed,
}

/// The host's own resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostResolver;

#[async_trait]
impl Resolver for HostResolver {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, LookUpError> {
        match tokio::time::timeout(LOOK_UP_TIMEOUT, tokio::net::lookup_host((name, 0))).await {
            Ok(Ok(found)) => Ok(found.map(|address| address.ip().to_canonical()).collect()),
            // The system's words are the only thing that tells the two apart.
            Ok(Err(error)) if error.to_string().contains("emporary failure") => Err(LookUpError::Failed),
            Ok(Err(_)) => Err(LookUpError::NoSuchName),
            Err(_) => Err(LookUpError::Failed),
        }
    }

    async fn records(&self, question: &[u8]) -> Result<Records, LookUpError> {
        name_servers::ask_hosts(question).await
    }
}

/// What is to be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A name, lower case.
    Name(String, u16),
    /// An address.
    Address(SocketAddr),
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// Why nothing was reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReached {
    /// It may not be.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The name means nothing.
    #[error(transparent)]
    LookUp(#[from] LookUpError),
    /// No address answered; holds the last one's words.
    #[error("{0}")]
    Dial(String),
}

/// Dials by rules.
#[derive(Clone)]
pub struct Dialer {
    resolver: Arc<dyn Resolver>,
}

impl Dialer {
    /// A dialer that looks names up with `resolver`.
    pub fn new(resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver }
    }

    /// Looks a name up.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, LookUpError> {
        self.resolver.resolve(name).await
    }

    /// Asks for other records than addresses.
    pub(crate) async fn records(&self, question: &[u8]) -> Result<Records, LookUpError> {
        self.resolver.records(question).await
    }

    /// Connects to the first address that may be reached and answers. Answers the address too.
    ///
    /// # Errors
    /// `Refused` when no address may be reached; otherwise why none was.
    pub async fn dial(&self, rules: &Rules, to: &Destination) -> Result<(TcpStream, SocketAddr), NotReached> {
        let (say, targets) = match to {
            Destination::Address(address) => (rules.say_address(*address), vec![*address]),
            Destination::Name(name, port) => {
                let say = rules.say(name, *port);
                (say, self.targets(name, *port, say).await?)
            }
        };
        if say == Say::No {
            return Err(Refused::Policy.into());
        }
        let mut last = NotReached::LookUp(LookUpError::NoSuchName);
        for target in targets {
            if say != Say::Open
                && let Err(refused) = egress::judge(target.ip(), is_own_address(target))
            {
                last = refused.into();
                continue;
            }
            match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(target)).await {
                Ok(Ok(stream)) => return Ok((stream, target)),
                Ok(Err(error)) => last = NotReached::Dial(error.to_string()),
                Err(_) => last = NotReached::Dial(format!("no answer within {} s", DIAL_TIMEOUT.as_secs())),
            }
        }
        Err(last)
    }

    async fn targets(&self, name: &str, port: u16, say: Say) -> Result<Vec<SocketAddr>, NotReached> {
        let addresses = match say {
            // What may not be reached is not looked up either: a question tells its name to others.
            Say::No => Vec::new(),
            Say::Open if name == HOST_NAME => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            Say::Public if name == HOST_NAME => return Err(Refused::OwnAddress.into()),
            Say::Open | Say::Public => self.resolver.resolve(name).await?,
        };
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }
}

/// Whether an address is one of this host's: only then does the system choose it as the source towards itself.
pub(crate) fn is_own_address(target: SocketAddr) -> bool {
    let any = if target.is_ipv4() { SocketAddr::from(([0, 0, 0, 0], 0)) } else { SocketAddr::from(([0u16; 8], 0)) };
    let source = std::net::UdpSocket::bind(any).and_then(|socket| {
        // Connecting a datagram socket sends nothing.
        socket.connect(target)?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == target.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::TcpListener;

    /// Answers a public address first and this host's from then on, as a server that rebinds a name does.
    struct Rebinding(AtomicUsize);

    #[async_trait]
    impl Resolver for Rebinding {
        async fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, LookUpError> {
            let asked = self.0.fetch_add(1, Ordering::SeqCst);
            // Documentation's addresses are never reached, and this one is refused before that.
            Ok(vec![IpAddr::from(if asked == 0 { [192, 0, 2, 1] } else { [127, 0, 0, 1] })])
        }

        async fn records(&self, _: &[u8]) -> Result<Records, LookUpError> {
            Err(LookUpError::Failed)
        }
    }

    #[tokio::test]
    async fn a_name_that_is_bound_anew_is_judged_by_what_is_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = Destination::Name("rebound.example".into(), port);
        let rules = |egress: &str| Rules { egress: egress.parse().unwrap(), open: Vec::new(), developer_opens: true };
        let resolver = Arc::new(Rebinding(AtomicUsize::new(0)));
        let dialer = Dialer::new(resolver.clone());
        for asked in 1..4 {
            let refused = dialer.dial(&rules("public"), &to).await.unwrap_err();
            assert_eq!(refused, Refused::NotPublic.into());
            assert_eq!(resolver.0.load(Ordering::SeqCst), asked, "one look-up for each dial");
        }
        assert_eq!(dialer.dial(&rules("none"), &to).await.unwrap_err(), Refused::Policy.into());
        assert_eq!(resolver.0.load(Ordering::SeqCst), 3, "and none for what may not be reached");
        // The control: the same name and address where they are open.
        let open = rules(&format!("rebound.example:{port}"));
        assert_eq!(dialer.dial(&open, &to).await.unwrap().1.port(), port);
    }

    #[test]
    fn the_hosts_own_addresses_are_known() {
        assert!(is_own_address("127.0.0.1:1".parse().unwrap()));
        assert!(!is_own_address("192.0.2.1:1".parse().unwrap()));
    }
}
