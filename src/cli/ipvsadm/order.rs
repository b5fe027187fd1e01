//! The order in which ipvsadm lists.
//!
//! It compares addresses by the sign of their difference in 32 bits, so that 192.0.2.1 comes before
//! 10.0.0.1, and `::` behind `fe80::1`. Such an order goes round in circles, which the library's
//! sort may refuse; a merge sort, as the C library's qsort is one, does not mind.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};

use super::line::Protocol;

/// What a service is listed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its mark; 0 for an address.
    pub mark: u32,
    /// Whether it is of the IPv6 family.
    pub is_ipv6: bool,
    /// Protocol; marks have TCP.
    pub protocol: Protocol,
    /// Address and port; unspecified for marks.
    pub address: SocketAddr,
}

fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [address.into(), 0, 0, 0],
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
        }
    }
}

/// By the sign of the differences; as many words as the first one's family has.
fn by_address(one: IpAddr, other: IpAddr) -> Ordering {
    let count = if one.is_ipv4() { 1 } else { 4 };
    let pairs = words(one).into_iter().zip(words(other)).take(count);
    let mut differences = pairs.map(|(one, other)| one.wrapping_sub(other) as i32);
    differences.find(|difference| *difference != 0).unwrap_or(0).cmp(&0)
}

/// Servers: by address and port.
pub fn by_endpoint(one: SocketAddr, other: SocketAddr) -> Ordering {
    by_address(one.ip(), other.ip()).then(one.port().cmp(&other.port()))
}

/// Services: marks last, then by family, protocol, address and port.
pub fn by_place(one: &Place, other: &Place) -> Ordering {
    (one.mark.wrapping_sub(other.mark) as i32)
        .cmp(&0)
        .then(one.is_ipv6.cmp(&other.is_ipv6))
        .then(one.protocol.cmp(&other.protocol))
        .then_with(|| by_endpoint(one.address, other.address))
}

/// Sorts by merging halves, the first of which is the shorter; equals keep their order.
pub fn sort<T: Clone>(items: &mut Vec<T>, compare: &impl Fn(&T, &T) -> Ordering) {
    if items.len() < 2 {
        return;
    }
    let mut right = items.split_off(items.len() / 2);
    sort(items, compare);
    sort(&mut right, compare);
    let (left, mut merged) = (std::mem::take(items), Vec::new());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(one), Some(other)) = (left.peek(), right.peek()) {
        let first = if compare(one, other).is_le() { left.next() } else { right.next() };
        merged.extend(first);
    }
    merged.extend(left.chain(right));
    *items = merged;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(list: &[&str]) -> Vec<String> {
        let mut all: Vec<SocketAddr> = list.iter().map(|text| text.parse().unwrap()).collect();
        sort(&mut all, &|one, other| by_endpoint(*one, *other));
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_compared_by_the_sign_of_their_difference() {
        assert_eq!(
            sorted(&["10.1.0.1:80", "9.255.0.1:80", "10.1.0.1:8", "192.0.2.1:80"]),
            ["192.0.2.1:80", "9.255.0.1:80", "10.1.0.1:8", "10.1.0.1:80"]
        );
        assert_eq!(
            sorted(&["[::]:80", "[fe80::1]:80", "[fd00::1]:80"]),
            ["[fd00::1]:80", "[fe80::1]:80", "[::]:80"]
        );
    }

    #[test]
    fn a_circle_is_sorted_without_a_complaint() {
        let circle: Vec<String> = (0..60u32).map(|n| format!("{}.0.0.1:80", n * 4 % 255)).collect();
        let list: Vec<&str> = circle.iter().map(String::as_str).collect();
        assert_eq!(sorted(&list).len(), 60);
    }
}
