"""Which addresses a URL from a client may lead to: those of the public internet, not this machine or its network."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

IPV6_UNICAST = ip_network("2000::/3")  # all that IANA has given out as global unicast
NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # this network; Linux connects 0.0.0.0 to itself
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT; a cloud's metadata at 100.100.100.200
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's host, of a range that is public otherwise
            "169.254.0.0/16",  # link-local, metadata of most clouds
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocol assignments; a cloud's metadata at 192.0.0.192
            "192.0.2.0/24",
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",
            "2002::/16",  # 6to4: an IPv4 address within
            "3fff::/20",
        ),
    )
)


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the public internet. Text that is no strict address, or has a zone, is not.

    An IPv4 address mapped into IPv6 counts as itself. The other ways to write IPv4 within IPv6 (NAT64, 6to4, Teredo,
    IPv4-compatible) are refused whole: what they reach depends on the network between.
    """
    try:
        parsed: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        if parsed.scope_id is not None:
            return False
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif parsed not in IPV6_UNICAST:
            return False
    return not any(parsed in network for network in NOT_PUBLIC if network.version == parsed.version)
