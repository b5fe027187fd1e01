//! How users name services: `tcp 192.0.2.80:80`, `tcp:192.0.2.80:80`, a name, or `192.0.2.80:80`
//! alone where that means one.

use std::net::SocketAddr;

use crate::control::api::{ApiError, ErrorCode};
use crate::model::{Protocol, ServiceKey};

/// The key that `text` spells out, if it spells one out with its protocol.
fn spelled(text: &str) -> Option<ServiceKey> {
    let (protocol, address) = text.split_once([' ', ':', '/'])?;
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let address: SocketAddr = address.trim().parse().ok()?;
    Some(ServiceKey { protocol, vip: address.ip(), port: address.port() })
}

/// The one of `services` that `text` means.
pub fn find_service<'a>(
    text: &str,
    services: impl Iterator<Item = (ServiceKey, Option<&'a str>)>,
) -> Result<ServiceKey, ApiError> {
    let key = spelled(text);
    let address: Option<SocketAddr> = text.parse().ok();
    let means = |(this, name): &(ServiceKey, Option<&str>)| {
        Some(*this) == key
            || *name == Some(text)
            || address.is_some_and(|a| a.ip() == this.vip && a.port() == this.port)
    };
    let mut found = services.filter(means);
    let shown: String = text.chars().take(80).collect();
    match (found.next(), found.next()) {
        (Some((key, _)), None) => Ok(key),
        (Some((one, _)), Some((other, _))) => {
            let message = format!("`{shown}` may mean {one} or {other}");
            Err(ApiError::new(ErrorCode::NotFound, message).hint("name the protocol too"))
        }
        (None, _) => {
            let message = format!("there is no service `{shown}`");
            let hint = "`gyre services` lists them; write `tcp 192.0.2.80:80` or the name";
            Err(ApiError::new(ErrorCode::NotFound, message).hint(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_a_service_finds_it() {
        let key =
            |protocol, port| ServiceKey { protocol, vip: "2001:db8::80".parse().unwrap(), port };
        let services = [
            (key(Protocol::Tcp, 80), Some("web")),
            (key(Protocol::Tcp, 53), None),
            (key(Protocol::Udp, 53), Some("dns")),
        ];
        let find = |text| find_service(text, services.iter().copied());
        for text in ["tcp [2001:db8::80]:80", "TCP:[2001:db8::80]:80", "web", "[2001:db8::80]:80"] {
            assert_eq!(find(text).unwrap(), services[0].0, "{text}");
        }
        assert_eq!(find("udp/[2001:db8::80]:53").unwrap(), services[2].0);
        assert!(find("[2001:db8::80]:53").unwrap_err().message.contains("may mean"));
        for text in ["", "www", "sctp [2001:db8::80]:80", "udp [2001:db8::80]:80", "tcp"] {
            assert_eq!(find(text).unwrap_err().name(), Some("not_found"), "{text}");
        }
    }
}
