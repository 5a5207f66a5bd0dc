//! Where a guest's connection may go: a judgement over addresses, after every name has become one. Pure.
//!
//! Public addresses only. Names are never judged here, so that a name which resolves to an inner address gains nothing.
//!
//! Invariants
//!   1. An address form that holds another address (IPv4-mapped, NAT64, 6to4) is judged by what it leads to, or refused.
//!   2. What is not known to be public is refused: IPv6 only within the global unicast block.
//!   3. The host's own addresses are refused although they may be public.
//!
//! Source of the blocks: IANA's special-purpose address registries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use model::{Egress, OpenTarget};

/// Why a destination is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not an address of the public internet.
    #[error("the address is not public")]
    NotPublic,
    /// Metadata of a cloud's virtual machine.
    #[error("the address serves a cloud's metadata")]
    Metadata,
    /// An address of this host.
    #[error("the address is this host's own")]
    OwnAddress,
    /// Not among what the function may reach.
    #[error("the function's egress policy does not name it")]
    Policy,
}

/// Decides over a destination address. `own` says whether the address is one of this host's.
pub fn judge(address: IpAddr, own: bool) -> Result<(), Refused> {
    let (metadata, public) = match address {
        IpAddr::V4(address) => (is_metadata(address), is_public_v4(address)),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(inner) => (is_metadata(inner), is_public_v4(inner)),
            None => (false, is_public_v6(address)),
        },
    };
    if metadata {
        return Err(Refused::Metadata);
    }
    if !public {
        return Err(Refused::NotPublic);
    }
    if own { Err(Refused::OwnAddress) } else { Ok(()) }
}

/// What one sandbox may reach: its function's policy, and what others have opened.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The function's policy.
    pub egress: Egress,
    /// Targets that the operator opened although they are not public.
    pub open: Vec<OpenTarget>,
    /// Whether targets that the function's policy names are open too, as in development.
    pub developer_opens: bool,
}

/// What rules say of a target, before its address is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// It may be reached whatever its address is.
    Open,
    /// It may be reached if its address is public.
    Public,
    /// It may not be reached.
    No,
}

impl Rules {
    /// About a target by the name or address that the guest asked for.
    pub fn say(&self, host: &str, port: u16) -> Say {
        let listed = self.egress.lists(host, port);
        if !listed && !self.egress.public {
            return Say::No;
        }
        let opened = self.open.iter().any(|target| target.port == port && target.host == host);
        if opened || (listed && self.developer_opens) { Say::Open } else { Say::Public }
    }

    /// About an address that the guest asked for itself.
    pub fn say_address(&self, target: SocketAddr) -> Say {
        self.say(&target.ip().to_canonical().to_string(), target.port())
    }

    /// Whether some port of this host is named, so that the guest gets an address of its own for it.
    pub fn names(&self, host: &str) -> bool {
        self.egress.names(host) || (self.egress.public && self.open.iter().any(|target| target.host == host))
    }
}

/// The metadata services of clouds, where an address does not give them away as link-local.
fn is_metadata(address: Ipv4Addr) -> bool {
    // 169.254.169.254: nearly all; 168.63.129.16: Azure's agent; 100.100.100.200: Alibaba; 192.0.0.192: Oracle.
    [[169, 254, 169, 254], [169, 254, 170, 2], [168, 63, 129, 16], [100, 100, 100, 200], [192, 0, 0, 192]]
        .contains(&address.octets())
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // 2001::/23 holds tunnels, benchmarks and identifiers, no hosts; 2002::/16 leads to an IPv4 address of its own.
    let special = (a == 0x2001 && (b < 0x0200 || b == 0x0db8)) || a == 0x2002 || (a == 0x3fff && b < 0x1000);
    // 64:ff9b::/96 and the like are outside of the global unicast block.
    (0x2000..=0x3fff).contains(&a) && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 \
        128.0.0.1 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0 \
        198.17.255.255 198.20.0.0 223.255.255.255 52.94.0.1 ::ffff:8.8.8.8 2606:4700:4700::1111 \
        2001:4860:4860::8888 2a00::1 2001:200::1 2400::1";
    const INNER: &str = "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 \
        127.255.255.255 169.254.0.1 169.254.100.1 172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 192.88.99.1 \
        192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 \
        255.255.255.255 :: ::1 ::2 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:192.168.1.1 \
        64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001::1 2001:20::1 2001:db8::1 2002:7f00:1::1 2002:a00:1:: 3fff::1 \
        4000::1 fc00::1 fd00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1";
    const METADATA: &str =
        "169.254.169.254 169.254.170.2 168.63.129.16 100.100.100.200 192.0.0.192 ::ffff:169.254.169.254";

    #[test]
    fn only_public_addresses_pass() {
        for (list, wanted) in [(PUBLIC, Ok(())), (INNER, Err(Refused::NotPublic)), (METADATA, Err(Refused::Metadata))] {
            for address in list.split_whitespace() {
                assert_eq!(judge(address.parse().unwrap(), false), wanted, "{address}");
            }
        }
        for address in PUBLIC.split_whitespace() {
            assert_eq!(judge(address.parse().unwrap(), true), Err(Refused::OwnAddress), "{address}");
        }
    }

    fn rules(egress: &str, developer_opens: bool) -> Rules {
        let open = ["10.0.0.5:443", "[fd00::1]:80", "host.dunlin.internal:5432"].map(|text| text.parse().unwrap());
        Rules { egress: egress.parse().unwrap(), open: open.to_vec(), developer_opens }
    }

    #[test]
    fn what_the_operator_opens_is_matched_exactly() {
        let rules = rules("public", false);
        let say = |text: &str| rules.say_address(text.parse().unwrap());
        assert_eq!(say("10.0.0.5:443"), Say::Open);
        assert_eq!(say("[::ffff:10.0.0.5]:443"), Say::Open);
        assert_eq!(say("[fd00::1]:80"), Say::Open);
        assert_eq!(say("10.0.0.5:444"), Say::Public);
        assert_eq!(say("10.0.0.6:443"), Say::Public);
        assert_eq!(rules.say("host.dunlin.internal", 5432), Say::Open);
        assert_eq!(rules.say("host.dunlin.internal", 22), Say::Public);
        assert!(rules.names("10.0.0.5") && !rules.names("10.0.0.6"));
    }

    #[test]
    fn a_policy_closes_and_opens_only_in_development() {
        for developer_opens in [false, true] {
            let rules = rules("none", developer_opens);
            assert_eq!(rules.say("example.com", 443), Say::No);
            assert_eq!(rules.say("host.dunlin.internal", 5432), Say::No, "not even what is open for others");
            assert!(!rules.names("host.dunlin.internal"));
        }
        let list = "example.com:443 10.0.0.9:5432";
        let (production, development) = (rules(list, false), rules(list, true));
        assert_eq!(production.say("example.com", 443), Say::Public);
        assert_eq!(production.say("example.com", 80), Say::No);
        assert_eq!(production.say("example.org", 443), Say::No);
        assert_eq!(production.say("10.0.0.9", 5432), Say::Public, "which it is not");
        assert_eq!(development.say("10.0.0.9", 5432), Say::Open);
        assert_eq!(development.say("8.8.8.8", 443), Say::No);
        assert_eq!(rules("public 10.0.0.9:5432", true).say("8.8.8.8", 443), Say::Public);
    }

    proptest::proptest! {
        #[test]
        fn a_mapped_address_is_judged_as_its_inner_one(raw: u32) {
            let inner = Ipv4Addr::from(raw);
            let mapped = IpAddr::V6(inner.to_ipv6_mapped());
            proptest::prop_assert_eq!(judge(mapped, false), judge(IpAddr::V4(inner), false));
        }

        #[test]
        fn the_standard_librarys_inner_addresses_are_refused(raw: u32) {
            let address = Ipv4Addr::from(raw);
            let inner = address.is_private() || address.is_loopback() || address.is_link_local()
                || address.is_multicast() || address.is_broadcast() || address.is_documentation() || address.is_unspecified();
            proptest::prop_assert!(!inner || judge(IpAddr::V4(address), false).is_err());
        }
    }
}
