//! The name server of a sandbox, over UDP and over TCP: what a name means there.
//!
//! | name                                                  | addresses                     | other records                   |
//! |-------------------------------------------------------|-------------------------------|---------------------------------|
//! | one that the platform answers                         | one of the sandbox's own      | none                            |
//! | one that is opened to the function                    | one of the sandbox's own      | as the host's name servers say  |
//! | any other, where the policy has what is public        | those that may be reached     | as the host's name servers say  |
//! | of a public address (`arpa`), likewise                | none                          | as the host's name servers say  |
//! | the rest                                              | there is no such name         | there is no such name           |
//!
//! Records may name inner hosts, which then have no addresses here: what counts is decided on the address that is dialled.
//!
//! Invariants
//!   1. Every question is answered, also by that nothing is known now; but for what is no question.
//!   2. Questions that leave the host are bounded in number, at once and each second; whatever is more waits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::dial::LookUpError;
use crate::dns::{self, Answer, DATAGRAM_BYTES_MAX, Kind, Parsed, Query, STREAM_BYTES_MAX};
use crate::egress;
use crate::name_servers::framed;
use crate::names;
use crate::traffic::Pace;

use super::{Guest, Meaning};

/// Questions of one sandbox that are looked up at once.
const LOOK_UPS_MAX: usize = 64;
/// Questions of one sandbox that are looked up in a second. Lambda's limit for all packets of an environment to its resolver.
const LOOK_UPS_PER_SECOND: u64 = 1_024;
/// Longest question, with what resolvers add to it.
const QUESTION_BYTES_MAX: usize = 1_500;
/// How long a connection may be silent. Resolvers keep some for their next question.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What bounds the questions of a sandbox that leave the host.
pub(super) struct Questions {
    room: Arc<Semaphore>,
    pace: Pace,
}

impl Questions {
    pub(super) fn new() -> Self {
        Self { room: Arc::new(Semaphore::new(LOOK_UPS_MAX)), pace: Pace::new(LOOK_UPS_PER_SECOND) }
    }
}

impl Guest {
    /// Answers what comes as datagrams.
    pub(super) async fn answer_datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut packet = [0; QUESTION_BYTES_MAX];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut packet).await else {
                // An answer that could not be delivered shows up here.
                sleep(Duration::from_millis(1)).await;
                continue;
            };
            let query = match dns::parse(&packet[..length]) {
                Parsed::Ignore => continue,
                Parsed::Refuse(answer) => {
                    let _ = socket.send_to(&answer, from).await;
                    continue;
                }
                Parsed::Query(query) => query,
            };
            if let Some(answer) = self.known(&query) {
                let _ = socket.send_to(&dns::encode(&query, &answer, DATAGRAM_BYTES_MAX), from).await;
                continue;
            }
            let Ok(permit) = self.questions.room.clone().acquire_owned().await else { return };
            let (guest, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                let look_up = guest.look_up(&query, from);
                if let Some(answer) = guest.ending.run_until_cancelled(look_up).await {
                    let _ = socket.send_to(&dns::encode(&query, &answer, DATAGRAM_BYTES_MAX), from).await;
                }
                drop(permit);
            });
        }
    }

    /// Answers what comes over a connection, one question after the other.
    pub(super) async fn answer_stream(&self, mut stream: TcpStream) {
        let Ok(from) = stream.peer_addr() else { return };
        while let Ok(Ok(length)) = timeout(SILENCE_MAX, stream.read_u16()).await {
            let length = usize::from(length);
            if length > QUESTION_BYTES_MAX {
                return;
            }
            let mut packet = vec![0; length];
            let Ok(Ok(_)) = timeout(SILENCE_MAX, stream.read_exact(&mut packet)).await else { return };
            let answer = match dns::parse(&packet) {
                Parsed::Ignore => return,
                Parsed::Refuse(answer) => answer,
                Parsed::Query(query) => {
                    let answer = match self.known(&query) {
                        Some(answer) => answer,
                        None => {
                            let Ok(_permit) = self.questions.room.acquire().await else { return };
                            self.look_up(&query, from).await
                        }
                    };
                    dns::encode(&query, &answer, STREAM_BYTES_MAX)
                }
            };
            let Ok(Ok(())) = timeout(SILENCE_MAX, stream.write_all(&framed(&answer))).await else { return };
        }
    }

    /// The answer that needs no look-up.
    pub(super) fn known(&self, query: &Query) -> Option<Answer> {
        let name = query.name.as_str();
        let nothing = Answer::V6(Vec::new());
        let synthetic = |meaning: Meaning| match query.kind {
            Kind::A => match self.names.lock().address(name, meaning) {
                Some(address) => Answer::V4(vec![address]),
                None => Answer::Failed,
            },
            _ => Answer::V6(Vec::new()),
        };
        if names::is_served(name) {
            return Some(synthetic(Meaning::Platform));
        }
        let named = self.rules.names(name);
        if named && query.kind != Kind::Records {
            return Some(synthetic(Meaning::Outside(name.to_owned())));
        }
        if name == "dunlin.internal" || name.ends_with(".dunlin.internal") {
            return Some(if named { nothing } else { Answer::NoSuchName });
        }
        let local = name == "localhost" || name.ends_with(".localhost");
        if !local && !named && !self.rules.egress.public {
            // What may not be reached is not looked up either: a question tells its name to others.
            return Some(Answer::NoSuchName);
        }
        if name == "arpa" || name.ends_with(".arpa") {
            // Names of inner addresses stay inside.
            let public = dns::reversed(name).is_some_and(|address| egress::judge(address, false).is_ok());
            return if public && query.kind == Kind::Ptr { None } else { Some(Answer::NoSuchName) };
        }
        match query.kind {
            Kind::A if local => Some(Answer::V4(vec![Ipv4Addr::LOCALHOST])),
            Kind::A => None,
            Kind::Ptr | Kind::Records if !local => None,
            // The guest's network is IPv4: a name that has IPv6 addresses only gets a synthetic one.
            Kind::Aaaa | Kind::Other | Kind::Ptr | Kind::Records => Some(nothing),
        }
    }

    /// The answer from outside.
    pub(super) async fn look_up(&self, query: &Query, from: SocketAddr) -> Answer {
        let wait = self.questions.pace.wait(1, Instant::now());
        if !wait.is_zero() {
            tracing::debug!(function = %self.identity.function.arn(), %from, "questions wait: there are too many");
            sleep(wait).await;
        }
        let failed = |error: LookUpError| match error {
            LookUpError::NoSuchName => Answer::NoSuchName,
            LookUpError::Failed => Answer::Failed,
        };
        if query.kind == Kind::A {
            return self.addresses(&query.name).await.unwrap_or_else(failed);
        }
        self.service.dialer.records(query.question()).await.map_or_else(failed, Answer::Records)
    }

    async fn addresses(&self, name: &str) -> Result<Answer, LookUpError> {
        let found = self.service.dialer.resolve(name).await?;
        let v4: Vec<Ipv4Addr> = found
            .iter()
            .filter_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            })
            .collect();
        if v4.is_empty() && !found.is_empty() {
            let address = self.names.lock().address(name, Meaning::Outside(name.to_owned()));
            return Ok(address.map_or(Answer::Failed, |address| Answer::V4(vec![address])));
        }
        // What could not be reached is not shown either: names of an inner network stay inside.
        let reachable = |address: &Ipv4Addr| {
            self.rules.names(&address.to_string()) || egress::judge(IpAddr::V4(*address), false).is_ok()
        };
        Ok(Answer::V4(v4.into_iter().filter(reachable).collect()))
    }
}
