//! The network inside a sandbox: loopback only, and every connection arrives at the platform.
//!
//! Every address is local to the loopback interface (AnyIP), so packets to anywhere come back in on it; there, TPROXY
//! hands TCP to one listener whose accepted sockets carry the wanted address. No host configuration, no routes or
//! rules outside. The sockets are made here, before privileges are dropped, and sent to the server.
//!
//! Where the kernel has no nftables or no TPROXY, listeners on ports 80 and 443 of every address stand in.
//!
//! Runs between clone and exec: nothing but `Rules::new` allocates.

use libc::c_int;

use super::sys::{self, Call};

/// Port of the listeners behind TPROXY.
const TPROXY_PORT: u16 = 15001;
/// Port of the Runtime API.
const RUNTIME_API_PORT: u16 = 9001;
const LOOPBACK_INDEX: u32 = 1;
const BACKLOG: c_int = 1024;
/// Most sockets that `build` makes.
pub(crate) const SOCKETS_MAX: usize = 8;
const NAME_PORT: u16 = 53;
/// Where functions are told that the X-Ray daemon is: Lambda's own address. A program of the function's may have the port elsewhere.
const TRACES: (u32, u16) = (0xa9fe_4f81, 2000);

/// Netlink messages with their padding and nesting.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, sequence: u32) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Self(bytes)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        put_attribute(&mut self.0, kind, value);
        self
    }

    fn finish(mut self, into: &mut Vec<u8>) {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        into.extend_from_slice(&self.0);
    }
}

const NESTED: u16 = 0x8000;

fn put_attribute(into: &mut Vec<u8>, kind: u16, value: &[u8]) {
    into.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    into.extend_from_slice(&kind.to_ne_bytes());
    into.extend_from_slice(value);
    into.resize(into.len().next_multiple_of(4), 0);
}

fn attributes(parts: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in parts {
        put_attribute(&mut bytes, *kind, value);
    }
    bytes
}

/// One nftables expression: a list element of name and data.
fn expression(name: &str, data: &[(u16, &[u8])]) -> Vec<u8> {
    let name = format!("{name}\0");
    attributes(&[(1 | NESTED, &attributes(&[(1, name.as_bytes()), (2 | NESTED, &attributes(data))]))])
}

/// The netlink messages of all sandboxes, made once.
#[derive(Debug)]
pub(crate) struct Rules {
    routes: Vec<u8>,
    tproxy: Vec<u8>,
    /// How many acknowledgements `tproxy` gets.
    tproxy_acks: usize,
}

impl Rules {
    pub(crate) fn new() -> Self {
        let (tproxy, tproxy_acks) = tproxy_batch();
        Self { routes: local_routes(), tproxy, tproxy_acks }
    }
}

/// RTM_NEWROUTE of a local route for every IPv4 and IPv6 address.
fn local_routes() -> Vec<u8> {
    const TABLE_LOCAL: u8 = 255;
    const PROTOCOL_STATIC: u8 = 4;
    const SCOPE_HOST: u8 = 254;
    const TYPE_LOCAL: u8 = 2;
    const RTA_OIF: u16 = 4;
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE;
    let mut routes = Vec::new();
    for (sequence, family) in [libc::AF_INET, libc::AF_INET6].into_iter().enumerate() {
        Message::new(libc::RTM_NEWROUTE, flags as u16, sequence as u32)
            .raw(&[family as u8, 0, 0, 0, TABLE_LOCAL, PROTOCOL_STATIC, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0])
            .attribute(RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes())
            .finish(&mut routes);
    }
    routes
}

/// `table inet dunlin { chain in { type filter hook prerouting priority mangle; … tproxy to :15001 accept } }`, once
/// for each family, loopback destinations apart. Source of the numbers: linux/netfilter/nf_tables.h.
fn tproxy_batch() -> (Vec<u8>, usize) {
    const SUBSYSTEM: u16 = 10;
    const FAMILY_INET: u8 = 1;
    const TABLE: &[u8] = b"dunlin\0";
    const CHAIN: &[u8] = b"in\0";
    const HOOK_PREROUTING: u32 = 0;
    const PRIORITY_MANGLE: i32 = -150;
    let request = libc::NLM_F_REQUEST as u16;
    let create = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE) as u16;
    let kind = |message: u16| SUBSYSTEM << 8 | message;
    let inet: &[u8] = &[FAMILY_INET, 0, 0, 0];
    let batch: &[u8] = &[0, 0, 0, SUBSYSTEM as u8];
    let hook = attributes(&[(1, &HOOK_PREROUTING.to_be_bytes()), (2, &PRIORITY_MANGLE.to_be_bytes())]);

    let mut bytes = Vec::new();
    Message::new(0x10, request, 0).raw(batch).finish(&mut bytes);
    Message::new(kind(0), create, 1).raw(inet).attribute(1, TABLE).finish(&mut bytes);
    Message::new(kind(3), create, 2)
        .raw(inet)
        .attribute(1, TABLE)
        .attribute(3, CHAIN)
        .attribute(4 | NESTED, &hook)
        .attribute(7, b"filter\0")
        .finish(&mut bytes);
    for (sequence, rule) in [tproxy_rule(2, 16, &[127]), tproxy_rule(10, 24, &std::net::Ipv6Addr::LOCALHOST.octets())]
        .into_iter()
        .enumerate()
    {
        Message::new(kind(6), create | libc::NLM_F_APPEND as u16, 3 + sequence as u32)
            .raw(inet)
            .attribute(1, TABLE)
            .attribute(2, CHAIN)
            .attribute(4 | NESTED, &rule)
            .finish(&mut bytes);
    }
    Message::new(0x11, request, 5).raw(batch).finish(&mut bytes);
    (bytes, 4)
}

/// The expressions of one family's rule. `offset` is the destination address's place in the network header, `except`
/// the first bytes of destinations that are left alone.
fn tproxy_rule(family: u8, offset: u32, except: &[u8]) -> Vec<u8> {
    const META_NFPROTO: u32 = 15;
    const META_L4PROTO: u32 = 16;
    let one = 1u32.to_be_bytes();
    let meta = |key: u32| expression("meta", &[(1, &one), (2, &key.to_be_bytes())]);
    let compare = |operator: u32, value: &[u8]| {
        expression("cmp", &[(1, &one), (2, &operator.to_be_bytes()), (3 | NESTED, &attributes(&[(1, value)]))])
    };
    let accept = attributes(&[(2 | NESTED, &attributes(&[(1, &one)]))]);
    [
        meta(META_NFPROTO),
        compare(0, &[family]),
        expression(
            "payload",
            &[(1, &one), (2, &one), (3, &offset.to_be_bytes()), (4, &(except.len() as u32).to_be_bytes())],
        ),
        compare(1, except),
        meta(META_L4PROTO),
        compare(0, &[libc::IPPROTO_TCP as u8]),
        expression("immediate", &[(1, &one), (2 | NESTED, &attributes(&[(1, &TPROXY_PORT.to_be_bytes())]))]),
        expression("tproxy", &[(1, &u32::from(family).to_be_bytes()), (3, &one)]),
        expression("immediate", &[(1, &0u32.to_be_bytes()), (2 | NESTED, &accept)]),
    ]
    .concat()
}

/// Sends netlink messages and reads `acks` answers; the first error ends it.
fn exchange(protocol: c_int, messages: &[u8], acks: usize) -> Call<()> {
    const ERROR: u16 = libc::NLMSG_ERROR as u16;
    let fd = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
    // A kernel that says nothing must not hold the sandbox for ever.
    let result = set_receive_timeout(fd).and_then(|()| sys::send(fd, messages)).and_then(|()| {
        let mut buffer = [0u8; 4096];
        let mut seen = 0;
        while seen < acks {
            let length = sys::receive(fd, &mut buffer)?;
            let mut rest = buffer.get(..length).unwrap_or(&[]);
            while let (Some(size), Some(kind), Some(code)) = (word(rest, 0), half(rest, 4), word(rest, 16)) {
                if kind == ERROR && code != 0 {
                    return Err((code as i32).wrapping_neg());
                }
                seen += 1;
                rest = rest.get((size as usize).next_multiple_of(4).max(16)..).unwrap_or(&[]);
            }
        }
        Ok(())
    });
    sys::close(fd);
    result
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|word| u32::from_ne_bytes(*word))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|half| u16::from_ne_bytes(*half))
}

fn set_receive_timeout(fd: c_int) -> Call<()> {
    let timeout = libc::timeval { tv_sec: 2, tv_usec: 0 };
    // SAFETY: the value lives through the call and its size is right.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const timeout).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(sys::errno()) } else { Ok(()) }
}

fn loopback_up() -> Call<()> {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: all-zero is a valid `ifreq`; the name fits with its terminator, and the flags are the union's member that
    // SIOCSIFFLAGS reads.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &raw const request)
    };
    let result = if result < 0 { Err(sys::errno()) } else { Ok(()) };
    sys::close(fd);
    result
}

fn listener(domain: c_int, address: u32, port: u16, transparent: bool) -> Call<c_int> {
    let fd = sys::socket(domain, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    if domain == libc::AF_INET6 {
        sys::set_socket_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    if transparent && domain == libc::AF_INET {
        sys::set_socket_option(fd, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1)?;
    } else if transparent {
        sys::set_socket_option(fd, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, 1)?;
    }
    if domain == libc::AF_INET {
        sys::bind_v4(fd, address, port)?
    } else {
        sys::bind_v6_any(fd, port)?
    }
    sys::listen(fd, BACKLOG)?;
    Ok(fd)
}

fn dns_socket() -> Call<c_int> {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)?;
    sys::set_socket_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    sys::bind_v4(fd, 0, NAME_PORT)?;
    Ok(fd)
}

fn traces_socket() -> Call<c_int> {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)?;
    sys::bind_v4(fd, TRACES.0, TRACES.1)?;
    Ok(fd)
}

/// The sockets of a sandbox: Runtime API, DNS, traces, then TCP listeners.
pub(crate) struct Sockets {
    pub(crate) fds: [c_int; SOCKETS_MAX],
    pub(crate) count: usize,
    /// Whether every TCP connection arrives.
    pub(crate) tproxy: bool,
}

/// Brings the caller's fresh network namespace up.
pub(crate) fn build(rules: &Rules, with_tproxy: bool) -> Call<Sockets> {
    let mut sockets = Sockets { fds: [-1; SOCKETS_MAX], count: 0, tproxy: false };
    let mut push = |fd: c_int| {
        sockets.fds[sockets.count] = fd;
        sockets.count += 1;
    };
    loopback_up()?;
    // A kernel without IPv6 refuses the second route; IPv4 stands by then.
    let routes = exchange(libc::NETLINK_ROUTE, &rules.routes, 2);
    let has_v6 = routes.is_ok();
    push(listener(libc::AF_INET, 0x7f00_0001, RUNTIME_API_PORT, false)?);
    push(dns_socket()?);
    push(traces_socket()?);
    // Loopback destinations do not pass TPROXY, and there is the name server of `/etc/resolv.conf`.
    push(listener(libc::AF_INET, 0, NAME_PORT, false)?);
    let tproxy = with_tproxy && exchange(libc::NETLINK_NETFILTER, &rules.tproxy, rules.tproxy_acks).is_ok();
    let ports: &[u16] = if tproxy { &[TPROXY_PORT] } else { &[80, 443] };
    for port in ports {
        push(listener(libc::AF_INET, 0, *port, tproxy)?);
        if has_v6 {
            push(listener(libc::AF_INET6, 0, *port, tproxy)?);
        }
    }
    sockets.tproxy = tproxy;
    Ok(sockets)
}
