//! Questions to the host's name servers that the system's own resolver has no call for: other records than addresses.
//!
//! The servers of `/etc/resolv.conf` are asked in their order, each for a while. An answer that was cut is asked for again over TCP.
//!
//! Invariants
//!   1. An answer is taken only from the server that was asked, with the id and the question that it was asked.
//!   2. Every wait has an end, and every answer a greatest length.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base::SystemRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::dial::LookUpError;
use crate::dns::{self, Records, Reply};

const SETTINGS: &str = "/etc/resolv.conf";
/// As many as the system's resolver asks.
const SERVERS_MAX: usize = 3;
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the host's name servers a question (`dns::Query::question`).
pub(crate) async fn ask_hosts(question: &[u8]) -> Result<Records, LookUpError> {
    // Read anew for each question: these are few, and a host may change its network.
    let settings = tokio::fs::read_to_string(SETTINGS).await.map_err(|_| LookUpError::Failed)?;
    ask(&servers(&settings), question).await
}

/// The servers that settings name.
fn servers(settings: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    };
    settings.lines().filter_map(address).take(SERVERS_MAX).map(|address| SocketAddr::new(address, 53)).collect()
}

/// Asks one server after the other until one answers.
async fn ask(servers: &[SocketAddr], question: &[u8]) -> Result<Records, LookUpError> {
    for server in servers {
        match tokio::time::timeout(SERVER_TIMEOUT, ask_one(*server, question)).await {
            Ok(Ok(Reply::Records(records))) => return Ok(records),
            Ok(Ok(other)) => tracing::debug!(%server, ?other, "a name server does not answer a question"),
            Ok(Err(error)) => tracing::debug!(%server, %error, "a name server cannot be asked"),
            Err(_) => tracing::debug!(%server, "a name server does not answer in time"),
        }
    }
    Err(LookUpError::Failed)
}

async fn ask_one(server: SocketAddr, question: &[u8]) -> std::io::Result<Reply> {
    let id = (SystemRandom::shared().next_u64() & 0xffff) as u16;
    let packet = dns::ask(id, question);
    let any = if server.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0u16; 8], 0)) };
    let socket = UdpSocket::bind(any).await?;
    // The kernel then passes only what comes from there.
    socket.connect(server).await?;
    socket.send(&packet).await?;
    let mut answer = vec![0; usize::from(dns::REPLY_BYTES_MAX)];
    loop {
        let length = socket.recv(&mut answer).await?;
        match dns::read_reply(&answer[..length], id, question) {
            None => {}
            Some(Reply::Truncated) => return ask_by_stream(server, &packet, id, question).await,
            Some(reply) => return Ok(reply),
        }
    }
}

async fn ask_by_stream(server: SocketAddr, packet: &[u8], id: u16, question: &[u8]) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&framed(packet)).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(dns::read_reply(&answer, id, question).unwrap_or(Reply::Failed))
}

/// A packet as it goes over a stream, its length before it.
pub(crate) fn framed(packet: &[u8]) -> Vec<u8> {
    // No packet of DNS is longer.
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), packet].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// `TXT example`.
    const QUESTION: &[u8] = b"\x07example\0\0\x10\0\x01";

    #[test]
    fn settings_are_read_as_the_system_reads_them() {
        let text = "# nameserver 1.1.1.1\nsearch example\nnameserver 127.0.0.53\n nameserver ::1 # six\nnameserver nonsense\n\
                    nameserver 10.0.0.1\nnameserver 10.0.0.2\noptions edns0\n";
        let wanted = ["127.0.0.53:53", "[::1]:53", "10.0.0.1:53"].map(|text| text.parse().unwrap());
        assert_eq!(servers(text), wanted);
        assert!(servers("").is_empty());
    }

    fn answer(asked: &[u8], flags: u8, text: &[u8]) -> Vec<u8> {
        let mut out = asked[..12 + QUESTION.len()].to_vec();
        (out[2], out[7], out[11]) = (0x80 | flags, u8::from(!text.is_empty()), 0);
        if !text.is_empty() {
            let [high, low] = u16::try_from(text.len()).unwrap().to_be_bytes();
            out.extend_from_slice(&[0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 1, high, low]);
            out.extend_from_slice(text);
        }
        out
    }

    #[tokio::test]
    async fn a_cut_answer_is_asked_for_over_tcp_and_others_are_passed_over() {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).await.unwrap();
        let serving = tokio::spawn(async move {
            let mut asked = [0; 512];
            let (length, from) = udp.recv_from(&mut asked).await.unwrap();
            // Of another question, then noise, then the answer.
            let mut other = answer(&asked, 0, b"\x01x");
            other[0] ^= 1;
            for packet in [&other[..], b"noise", &answer(&asked[..length], 2, b"")] {
                udp.send_to(packet, from).await.unwrap();
            }
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut again = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut again).await.unwrap();
            stream.write_all(&framed(&answer(&again, 0, &[b't'; 3_000]))).await.unwrap();
        });
        // Nobody is at the first.
        let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let found = ask(&[closed, address], QUESTION).await.unwrap();
        assert!(format!("{found:?}").contains("count: 1"), "{found:?}");
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_waited_for_no_longer_than_it_may_take() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let began = tokio::time::Instant::now();
        let address = silent.local_addr().unwrap();
        assert_eq!(ask(&[address, address], QUESTION).await, Err(LookUpError::Failed));
        assert_eq!(began.elapsed().as_secs(), 4);
    }
}
