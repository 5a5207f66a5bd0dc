//! The guests' network over real sockets of the loopback interface, with a resolver of its own.
//!
//! A test cannot redirect connections as a sandbox does; it hands streams in with the address that was wanted.

use base::SystemClock;
use bytes::Bytes;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use async_trait::async_trait;

use super::*;
use crate::Authority;
use crate::dial::{HOST_NAME, LookUpError};
use crate::dns::{self, Answer, Parsed, Query, Records, Reply};
use crate::doubles::{function, gateway, request, send, shown};

struct Fixed;

#[async_trait]
impl Resolver for Fixed {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, LookUpError> {
        match name {
            "public.example" => Ok(vec![IpAddr::from([8, 8, 8, 8]), IpAddr::from([10, 0, 0, 1])]),
            "inner.example" => Ok(vec![IpAddr::from([10, 0, 0, 1])]),
            "rebound.example" => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
            "six.example" => Ok(vec!["::1".parse().unwrap()]),
            "down.example" => Err(LookUpError::Failed),
            _ => Err(LookUpError::NoSuchName),
        }
    }

    /// Three texts of 200 bytes, but where a server is down.
    async fn records(&self, question: &[u8]) -> Result<Records, LookUpError> {
        if question.starts_with(b"\x04down") {
            return Err(LookUpError::Failed);
        }
        let mut packet = [&[0, 9, 0x81, 0x80, 0, 1, 0, 3, 0, 0, 0, 0], question].concat();
        for _ in 0..3 {
            packet.extend_from_slice(&[0xc0, 12]);
            packet.extend_from_slice(&question[question.len() - 4..]);
            packet.extend_from_slice(&[0, 0, 0, 60, 0, 200, 199]);
            packet.extend_from_slice(&[b't'; 199]);
        }
        match dns::read_reply(&packet, 9, question) {
            Some(Reply::Records(records)) => Ok(records),
            other => panic!("{other:?}"),
        }
    }
}

struct World {
    guest: Arc<Guest>,
    authority: Arc<Authority>,
    _folder: tempfile::TempDir,
}

fn world(open: &[String]) -> World {
    world_with(open, "public", false)
}

fn world_with(open: &[String], egress: &str, developer_opens: bool) -> World {
    let folder = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::open(folder.path(), SystemClock::shared()).unwrap());
    let config = GuestNetworkConfig {
        open: open.iter().map(|text| text.parse().unwrap()).collect(),
        developer_opens,
        ..GuestNetworkConfig::default()
    };
    let rules = Rules { egress: egress.parse().unwrap(), open: config.open.clone(), developer_opens };
    let tls = crate::tls::of_authority(authority.clone()).unwrap();
    let service = GuestNetworkService::new(gateway(crate::Config::default()).0, tls, Arc::new(Fixed), config);
    let identity = GuestIdentity { function: function(), version: "7".into(), role_arn: "r".into() };
    let guest = Guest {
        service,
        identity: Arc::new(identity),
        names: Mutex::default(),
        rules,
        pace: Pace::new(1 << 30),
        questions: Questions::new(),
        ending: CancellationToken::new(),
    };
    World { guest: Arc::new(guest), authority, _folder: folder }
}

impl World {
    fn ask(&self, name: &str, kind: u16) -> Query {
        let mut packet = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            packet.push(u8::try_from(label.len()).unwrap());
            packet.extend_from_slice(label.as_bytes());
        }
        packet.extend_from_slice(&[0, 0, u8::try_from(kind).unwrap(), 0, 1]);
        match dns::parse(&packet) {
            Parsed::Query(query) => query,
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&self, name: &str, kind: u16) -> Answer {
        let query = self.ask(name, kind);
        match self.guest.known(&query) {
            Some(answer) => answer,
            None => self.guest.look_up(&query, SocketAddr::from(([127, 0, 0, 1], 1))).await,
        }
    }

    async fn address(&self, name: &str) -> Ipv4Addr {
        match self.answer(name, 1).await {
            Answer::V4(addresses) => addresses[0],
            other => panic!("{other:?}"),
        }
    }

    /// A stream whose other end believes that `wanted` was dialled.
    async fn connect(&self, wanted: SocketAddr) -> TcpStream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let guest = self.guest.clone();
        tokio::spawn(async move { guest.connect(stream, wanted).await });
        client
    }
}

#[tokio::test]
async fn names_are_answered_by_what_they_are() {
    let world = world(&["db.example:5432".into()]);
    let first = world.address("dynamodb.us-east-1.amazonaws.com").await;
    assert_eq!(first, Ipv4Addr::new(100, 64, 0, 1));
    assert_eq!(world.address("sts.amazonaws.com").await, Ipv4Addr::new(100, 64, 0, 2));
    assert_eq!(world.address("dynamodb.us-east-1.amazonaws.com").await, first);
    assert_eq!(world.address("db.example").await, Ipv4Addr::new(100, 64, 0, 3));
    assert_eq!(world.address("six.example").await, Ipv4Addr::new(100, 64, 0, 4));
    for (name, kind, wanted) in [
        ("dynamodb.us-east-1.amazonaws.com", 28, Answer::V6(vec![])),
        ("public.example", 1, Answer::V4(vec![Ipv4Addr::new(8, 8, 8, 8)])),
        ("public.example", 28, Answer::V6(vec![])),
        ("public.example", 65, Answer::V6(vec![])),
        ("sts.amazonaws.com", 16, Answer::V6(vec![])),
        ("localhost", 33, Answer::V6(vec![])),
        ("down.example", 33, Answer::Failed),
        ("2.1.0.10.in-addr.arpa", 12, Answer::NoSuchName),
        ("8.8.8.8.in-addr.arpa", 1, Answer::NoSuchName),
        ("inner.example", 1, Answer::V4(vec![])),
        ("down.example", 1, Answer::Failed),
        ("missing.example", 1, Answer::NoSuchName),
        ("host.dunlin.internal", 1, Answer::NoSuchName),
        ("1.0.0.127.in-addr.arpa", 12, Answer::NoSuchName),
        ("localhost", 1, Answer::V4(vec![Ipv4Addr::LOCALHOST])),
    ] {
        assert_eq!(world.answer(name, kind).await, wanted, "{name} {kind}");
    }
}

#[tokio::test]
async fn other_records_are_the_name_servers_where_the_policy_lets_them_be_asked() {
    let open = world(&[]);
    let listed = world_with(&[], "_db._tcp.listed.example:27017", false);
    let closed = world_with(&[], "none", false);
    for (name, kind) in [
        ("_db._tcp.listed.example", 33),
        ("_db._tcp.listed.example", 16),
        ("mx.example", 15),
        ("8.8.8.8.in-addr.arpa", 12),
    ] {
        assert!(matches!(open.answer(name, kind).await, Answer::Records(_)), "{name} {kind}");
        assert_eq!(closed.answer(name, kind).await, Answer::NoSuchName, "{name} {kind}");
        let found = listed.answer(name, kind).await;
        assert_eq!(matches!(found, Answer::Records(_)), name.contains("listed"), "{name} {kind}");
    }
}

/// A question as it goes over a connection.
fn over_stream(name: &str, kind: u8) -> Vec<u8> {
    let mut packet = b"\0\x09\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, kind, 0, 1]);
    crate::name_servers::framed(&packet)
}

#[tokio::test]
async fn names_are_answered_over_tcp_whichever_server_is_asked() {
    let world = world(&[]);
    for server in ["127.0.0.1:53", "169.254.100.1:53", "8.8.8.8:53", "[2001:4860:4860::8888]:53"] {
        let mut stream = world.connect(server.parse().unwrap()).await;
        // Three at once: they are answered one after the other.
        let asked =
            [over_stream("public.example", 1), over_stream("text.example", 16), over_stream("down.example", 16)];
        stream.write_all(&asked.concat()).await.unwrap();
        let mut answers = Vec::new();
        for _ in &asked {
            let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut answer).await.unwrap();
            answers.push(answer);
        }
        assert!(answers[0].ends_with(&[0, 4, 8, 8, 8, 8]), "{server}");
        // More than a datagram holds, and nothing cut.
        assert!(answers[1].len() > 600 && answers[1][2] & 2 == 0 && answers[1][7] == 3, "{server}");
        assert_eq!(answers[2][3] & 0xf, 2);
        // What is no question ends the connection.
        stream.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
    // A question that is announced and does not come holds nothing for ever; one that is too long ends the connection at once.
    let mut stream = world.connect("127.0.0.1:53".parse().unwrap()).await;
    stream.write_all(&[0xff, 0xff]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    // A name server that the operator has opened is reached itself.
    let port = greeter().await;
    let opened = super::tests::world(&[format!("127.0.0.1:{port}")]);
    assert_eq!(heard(opened.connect(SocketAddr::from(([127, 0, 0, 1], port))).await).await, "hello");
}

#[tokio::test]
async fn a_cut_answer_says_so_over_udp() {
    let world = world(&[]);
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let guard = world.guest.service.serve(
        (*world.guest.identity).clone(),
        "public".parse().unwrap(),
        Vec::new(),
        Some(socket),
        None,
    );
    let client = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    client.send_to(&over_stream("text.example", 16)[2..], address).await.unwrap();
    let mut answer = [0; 600];
    let (length, _) = client.recv_from(&mut answer).await.unwrap();
    assert!(length < 512 && answer[2] & 2 != 0 && answer[7] == 0);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn questions_that_leave_the_host_are_paced() {
    let world = world(&[]);
    let began = tokio::time::Instant::now();
    for _ in 0..2_048 {
        world.answer("public.example", 1).await;
        // What is known is not.
        world.answer("sts.amazonaws.com", 1).await;
    }
    let took = began.elapsed().as_millis();
    assert!((1_500..2_500).contains(&took), "{took}");
}

#[tokio::test]
async fn segments_of_traces_are_counted() {
    let world = world(&[]);
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let (service, identity) = (&world.guest.service, (*world.guest.identity).clone());
    let function = identity.function.arn();
    let guard = service.serve(identity, Egress::default(), Vec::new(), None, Some(socket));
    let client = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let large =
        format!("{{\"format\":\"json\",\"version\":1}}\n{{\"trace_id\":\"1\",\"x\":\"{}\"}}", "x".repeat(60_000));
    for datagram in ["noise", "", &large] {
        client.send_to(datagram.as_bytes(), address).await.unwrap();
    }
    let counted = || service.traffic().sums().get(&function).map(|sums| (sums.segments, sums.bad_segments));
    while counted() != Some((1, 2)) {
        tokio::task::yield_now().await;
    }
    drop(guard);
}

#[tokio::test]
async fn a_dns_socket_is_answered_and_noise_is_survived() {
    let world = world(&[]);
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let identity = (*world.guest.identity).clone();
    let guard = world.guest.service.serve(identity, Egress::default(), Vec::new(), Some(socket), None);
    let client = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    client.send_to(b"noise", address).await.unwrap();
    client.send_to(&[0xff; 600], address).await.unwrap();
    let question = b"\0\x09\x01\0\0\x01\0\0\0\0\0\0\x03sts\x09amazonaws\x03com\0\0\x01\0\x01";
    client.send_to(question, address).await.unwrap();
    let mut answer = [0; 512];
    let (length, _) = client.recv_from(&mut answer).await.unwrap();
    assert_eq!((answer[1], answer[7], &answer[length - 4..length]), (9, 1, &[100, 64, 0, 1][..]));
    drop(guard);
}

#[tokio::test]
async fn the_platform_is_reached_in_clear_and_through_tls() {
    let world = world(&[]);
    let auth = ("authorization", "AWS4 x");
    let endpoint = SocketAddr::from((GUEST_ADDRESS, 80));
    let asked = request("POST", "/", &[("host", GUEST_HOST), auth], b"{}");
    let answer = send(world.connect(endpoint).await, asked).await;
    assert_eq!(shown(&answer), "200 aws / http://169.254.100.1 2 bytes from 7");
    let admin = request("GET", "/_dunlin/usage", &[("host", GUEST_HOST), auth], b"");
    assert_eq!(send(world.connect(endpoint).await, admin).await.status(), 403);

    let name = "dynamodb.us-east-1.amazonaws.com";
    let wanted = SocketAddr::from((world.address(name).await, 443));
    let stream = connector(&world).connect(ServerName::try_from(name).unwrap(), world.connect(wanted).await);
    let asked = request("POST", "/", &[("host", name), auth], b"{}");
    let answer: http::Response<Bytes> = send(stream.await.unwrap(), asked).await;
    assert_eq!(shown(&answer), format!("200 aws / https://{name} 2 bytes from 7"));

    let other = connector(&world).connect(ServerName::try_from("example.com").unwrap(), world.connect(wanted).await);
    assert!(other.await.is_err(), "no certificate for a name that is not served");
}

fn connector(world: &World) -> tokio_rustls::TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut world.authority.certificate_pem().as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// A server that greets, and its port.
async fn greeter() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"hello").await;
        }
    });
    port
}

async fn heard(mut stream: TcpStream) -> String {
    let mut text = String::new();
    // A refused connection may end with a reset.
    let _ = stream.read_to_string(&mut text).await;
    text
}

#[tokio::test]
async fn inner_addresses_are_refused_however_they_are_named() {
    let port = greeter().await;
    let world = world(&[]);
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "10.0.0.1", "169.254.169.254", "100.64.9.9"] {
        let wanted = SocketAddr::new(address.parse().unwrap(), port);
        assert_eq!(heard(world.connect(wanted).await).await, "", "{address}");
    }
    let six = SocketAddr::from((world.address("six.example").await, port));
    assert_eq!(heard(world.connect(six).await).await, "");
    let stream = world.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).await;
    let refused = heard(stream);
    assert_eq!(refused.await, "");
    // The control: the same server is reached where the operator opened it.
    let opened = super::tests::world(&[
        format!("127.0.0.1:{port}"),
        format!("host.dunlin.internal:{port}"),
        format!("rebound.example:{port}"),
    ]);
    assert_eq!(heard(opened.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await).await, "hello");
    for name in [HOST_NAME, "rebound.example"] {
        let wanted = SocketAddr::from((opened.address(name).await, port));
        assert_eq!(heard(opened.connect(wanted).await).await, "hello", "{name}");
        let closed = SocketAddr::from((opened.address(name).await, greeter().await));
        assert_eq!(heard(opened.connect(closed).await).await, "", "{name}: another port");
    }
}

#[test]
fn plans_follow_the_wanted_address() {
    let plan = |text: &str, meaning: Option<Meaning>| plan(text.parse().unwrap(), meaning.as_ref(), 4566);
    let platform = || Some(Meaning::Platform);
    assert_eq!(plan("169.254.100.1:80", None), Plan::Platform { tls: false });
    assert_eq!(plan("[::ffff:169.254.100.1]:80", None), Plan::Platform { tls: false });
    assert_eq!(plan("169.254.100.1:22", None), Plan::Refuse);
    assert_eq!((plan("8.8.8.8:53", None), plan("100.64.0.1:53", platform())), (Plan::Names, Plan::Refuse));
    assert_eq!(plan("100.64.0.1:443", platform()), Plan::Platform { tls: true });
    assert_eq!(plan("100.64.0.1:4566", platform()), Plan::Platform { tls: false });
    assert_eq!(plan("100.64.0.1:22", platform()), Plan::Refuse);
    let outside = Some(Meaning::Outside("db".into()));
    assert_eq!(plan("100.64.0.2:5432", outside), Plan::Dial(Destination::Name("db".into(), 5432)));
    assert_eq!(plan("100.64.0.2:5432", None), Plan::Dial(Destination::Address("100.64.0.2:5432".parse().unwrap())));
}

#[tokio::test]
async fn a_functions_policy_closes_and_the_traffic_is_counted() {
    let port = greeter().await;
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let open = [format!("127.0.0.1:{port}")];
    let closed = world_with(&open, "none", true);
    assert_eq!(heard(closed.connect(here).await).await, "");
    for name in ["public.example", "missing.example", HOST_NAME] {
        assert_eq!(closed.answer(name, 1).await, Answer::NoSuchName, "{name}");
    }
    // The platform is still there.
    assert_eq!(closed.address("sts.amazonaws.com").await, Ipv4Addr::new(100, 64, 0, 1));
    let function = closed.guest.identity.function.arn();
    let settled = |world: &World, connections, refused| {
        let sums = world.guest.service.traffic().sums().get(&function).copied().unwrap_or_default();
        (sums.connections, sums.refused) == (connections, refused)
    };
    assert!(settled(&closed, 0, 1));

    // In development the developer's own words open; in production they do not.
    let list = format!("{HOST_NAME}:{port} rebound.example:{port}");
    for (developer_opens, wanted) in [(true, "hello"), (false, "")] {
        let world = world_with(&[], &list, developer_opens);
        for name in [HOST_NAME, "rebound.example"] {
            let target = SocketAddr::from((world.address(name).await, port));
            assert_eq!(heard(world.connect(target).await).await, wanted, "{name} {developer_opens}");
        }
        assert_eq!(heard(world.connect(here).await).await, "", "another name of the same place");
        assert_eq!(world.answer("public.example", 1).await, Answer::NoSuchName);
        while !settled(&world, if developer_opens { 2 } else { 0 }, if developer_opens { 1 } else { 3 }) {
            tokio::task::yield_now().await;
        }
    }
}

#[test]
fn names_are_bounded() {
    let mut names = Names::default();
    for index in 0..NAMES_MAX {
        assert!(names.address(&format!("n{index}"), Meaning::Platform).is_some());
    }
    assert_eq!(names.address("one more", Meaning::Platform), None);
    assert!(names.address("n0", Meaning::Platform).is_some());
}
