//! What a program reaches that has no sockets: it names a host and gets a connection, by the rules of every other guest.
//!
//! The platform itself is reached within the process, where encryption would serve nobody; what is outside is dialled,
//! paced and counted as it is for guests that have a network, and encrypted here, as the program has no keys.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use model::Egress;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, duplex};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{GuestNetworkService, Meaning, Plan, plan};
use crate::authority::system_roots;
use crate::dial::{Destination, NotReached};
use crate::door::{GuestIdentity, Peer};
use crate::egress::Rules;
use crate::traffic::{self, Account, Pace};
use crate::{dial, listener, names};

/// Bytes that wait in a connection.
const HELD_BYTES: usize = 64 * 1024;

/// A connection to something.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NotConnected {
    /// Nothing was reached.
    #[error(transparent)]
    NotReached(#[from] NotReached),
    /// It is not for programs.
    #[error("{0} cannot be reached")]
    Closed(String),
    /// The other side is not who it should be, or speaks no TLS.
    #[error("{0}")]
    Tls(std::io::Error),
}

/// One environment's way out. Dropping it ends its connections.
pub struct Visitor {
    service: Arc<GuestNetworkService>,
    identity: Arc<GuestIdentity>,
    rules: Rules,
    pace: Arc<Pace>,
    ending: CancellationToken,
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

impl GuestNetworkService {
    /// The way out of one environment, by its function's policy.
    pub fn visitor(self: &Arc<Self>, identity: GuestIdentity, egress: Egress) -> Visitor {
        let (open, developer_opens) = (self.config.open.clone(), self.config.developer_opens);
        Visitor {
            service: self.clone(),
            identity: Arc::new(identity),
            rules: Rules { egress, open, developer_opens },
            pace: Arc::new(Pace::new(self.config.bytes_per_second)),
            ending: CancellationToken::new(),
        }
    }
}

impl Visitor {
    /// Connects to a name (lower case) or address.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(&self, host: &str, port: u16, tls: bool) -> Result<Box<dyn Stream>, NotConnected> {
        match planned(host, port, self.service.gateway.config().port) {
            // Whoever speaks TLS to a port that has it, and nobody else.
            Plan::Platform { tls: served } if served == tls => Ok(Box::new(self.platform(port, tls))),
            Plan::Dial(to) => self.outside(&to, host, tls).await,
            Plan::Platform { .. } | Plan::Names | Plan::Refuse => Err(NotConnected::Closed(format!("{host}:{port}"))),
        }
    }

    /// A connection to the platform, within the process.
    fn platform(&self, port: u16, secure: bool) -> impl Stream {
        let (own, theirs) = duplex(HELD_BYTES);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let peer = Peer { address, secure, port, guest: Some(self.identity.clone()), spelling: None };
        let (gateway, ending) = (self.service.gateway.clone(), self.ending.clone());
        let cut = ending.clone();
        tokio::spawn(async move {
            cut.run_until_cancelled(listener::converse(gateway, theirs, peer, ending)).await;
        });
        own
    }

    async fn outside(&self, to: &Destination, host: &str, tls: bool) -> Result<Box<dyn Stream>, NotConnected> {
        let service = &self.service;
        let function = self.identity.function.arn();
        let clock = service.gateway.clock.clone();
        let mut account = Account::open(service.traffic.clone(), clock, function, to.to_string());
        let outside = match service.dialer.dial(&self.rules, to).await {
            Ok((outside, address)) => {
                account.reached(address);
                outside
            }
            Err(why) => {
                account.refused(why.to_string());
                return Err(why.into());
            }
        };
        let _ = outside.set_nodelay(true);
        let (own, theirs) = duplex(HELD_BYTES);
        let (pace, ending) = (self.pace.clone(), self.ending.clone());
        tokio::spawn(async move {
            ending.run_until_cancelled(traffic::relay_of(theirs, outside, &pace, &account)).await;
        });
        if !tls {
            return Ok(Box::new(own));
        }
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| NotConnected::Tls(std::io::Error::other(error)))?;
        let connected = TlsConnector::from(client()).connect(name, own).await;
        Ok(Box::new(connected.map_err(NotConnected::Tls)?))
    }
}

/// What becomes of a connection to a host. Pure.
fn planned(host: &str, port: u16, platform_port: u16) -> Plan {
    let of = |address: IpAddr, meaning: Option<&Meaning>| plan(SocketAddr::new(address, port), meaning, platform_port);
    let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if let Ok(address) = host.parse::<IpAddr>() {
        return of(address, None);
    }
    let name = host.trim_end_matches('.');
    if names::is_served(name) {
        return of(nowhere, Some(&Meaning::Platform));
    }
    if name == "localhost" || name.ends_with(".localhost") {
        return of(IpAddr::V4(Ipv4Addr::LOCALHOST), None);
    }
    if name.ends_with(".dunlin.internal") && name != dial::HOST_NAME {
        return Plan::Refuse;
    }
    of(nowhere, Some(&Meaning::Outside(name.to_owned())))
}

/// Trusts what the host trusts.
fn client() -> Arc<ClientConfig> {
    static CLIENT: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let made = CLIENT.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let pem = system_roots();
        roots.add_parsable_certificates(rustls_pemfile::certs(&mut pem.as_bytes()).flatten());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        // The provider has what the default versions need.
        let builder = builder.unwrap_or_else(|error| unreachable!("{error}"));
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    });
    made.clone()
}

#[cfg(test)]
mod tests {
    use super::super::GUEST_HOST;
    use super::*;

    #[test]
    fn names_lead_where_they_lead_other_guests() {
        let platform = |tls| Plan::Platform { tls };
        let dial = |host: &str, port| Plan::Dial(Destination::Name(host.into(), port));
        let address = |text: &str| Plan::Dial(Destination::Address(text.parse().unwrap()));
        for (host, port, wanted) in [
            (GUEST_HOST, 80, platform(false)),
            (GUEST_HOST, 443, Plan::Refuse),
            ("dynamodb.us-east-1.amazonaws.com", 443, platform(true)),
            ("dynamodb.us-east-1.amazonaws.com.", 80, platform(false)),
            ("s3.amazonaws.com", 8080, Plan::Refuse),
            ("example.com", 443, dial("example.com", 443)),
            ("192.0.2.1", 80, address("192.0.2.1:80")),
            ("fd00::1", 80, address("[fd00::1]:80")),
            ("localhost", 22, address("127.0.0.1:22")),
            ("x.dunlin.internal", 80, Plan::Refuse),
            (dial::HOST_NAME, 80, dial(dial::HOST_NAME, 80)),
        ] {
            assert_eq!(planned(host, port, 4566), wanted, "{host}:{port}");
        }
    }
}
