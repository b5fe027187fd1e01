//! How users name services: `tcp 192.0.2.80:80`, `tcp:192.0.2.80:80`, a name, or `192.0.2.80:80`
//! alone where that means one; a group by `group NAME`.

use crate::config::ServiceAddress;
use crate::control::api::{ApiError, ErrorCode};
use crate::model::{Protocol, ServiceKey};

/// Longer texts are no slips.
const NAME_CHARS_MAX: usize = 80;

/// The key that `text` spells out, if it spells one out with its protocol.
fn spelled(text: &str) -> Option<ServiceKey> {
    let (protocol, address) = text.split_once([' ', ':', '/'])?;
    let address = address.trim();
    if protocol.eq_ignore_ascii_case("group") {
        return ServiceKey::group(address);
    }
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let ServiceAddress { vip, ports } = address.parse().ok()?;
    Some(ServiceKey::Address { protocol, vip, ports })
}

/// The one of `services` that `text` means.
pub fn find_service<'a>(
    text: &str,
    services: impl Iterator<Item = (ServiceKey, Option<&'a str>)>,
) -> Result<ServiceKey, ApiError> {
    let key = spelled(text);
    let address: Option<ServiceAddress> = text.parse().ok();
    let means = |(this, name): &(ServiceKey, Option<&str>)| {
        Some(*this) == key
            || *name == Some(text)
            || matches!((*this, address), (ServiceKey::Address { vip, ports, .. }, Some(address))
                if address == ServiceAddress { vip, ports })
    };
    let services: Vec<_> = services.collect();
    let mut found = services.iter().copied().filter(means);
    let shown: String = text.chars().take(80).collect();
    match (found.next(), found.next()) {
        (Some((key, _)), None) => Ok(key),
        (Some((one, _)), Some((other, _))) => {
            let message = format!("`{shown}` may mean {one} or {other}");
            Err(ApiError::new(ErrorCode::NotFound, message).hint("name the protocol too"))
        }
        (None, _) => {
            let message = format!("there is no service `{shown}`");
            let hint = match near(text, &services) {
                Some(name) => format!("did you mean `{name}`?"),
                None => "`gyre services` lists them; write `tcp 192.0.2.80:80` or the name".into(),
            };
            Err(ApiError::new(ErrorCode::NotFound, message).hint(hint))
        }
    }
}

/// The name that was probably meant: two slips at most, and fewer in a short one.
fn near(text: &str, services: &[(ServiceKey, Option<&str>)]) -> Option<String> {
    let length = text.chars().count();
    if length > NAME_CHARS_MAX {
        return None;
    }
    let names = services
        .iter()
        .flat_map(|(key, name)| name.map(str::to_owned).into_iter().chain([key.to_string()]));
    let distance = |name: &String| strsim::damerau_levenshtein(text, name);
    names.min_by_key(distance).filter(|name| distance(name) <= 2.min(length / 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_a_service_finds_it() {
        let key = |protocol, port| ServiceKey::new(protocol, "2001:db8::80".parse().unwrap(), port);
        let ServiceAddress { vip, ports } = "[2001:db8::80]:8000-8010".parse().unwrap();
        let range = ServiceKey::Address { protocol: Protocol::Tcp, vip, ports };
        let services = [
            (key(Protocol::Tcp, 80), Some("web")),
            (key(Protocol::Tcp, 53), None),
            (key(Protocol::Udp, 53), Some("dns")),
            (ServiceKey::group("web").unwrap(), None),
            (range, None),
        ];
        let find = |text| find_service(text, services.iter().copied());
        for text in ["tcp [2001:db8::80]:80", "TCP:[2001:db8::80]:80", "web", "[2001:db8::80]:80"] {
            assert_eq!(find(text).unwrap(), services[0].0, "{text}");
        }
        assert_eq!(find("udp/[2001:db8::80]:53").unwrap(), services[2].0);
        assert_eq!(find("group web").unwrap(), services[3].0);
        assert_eq!(find("tcp [2001:db8::80]:8000-8010").unwrap(), services[4].0);
        assert!(find("[2001:db8::80]:53").unwrap_err().message.contains("may mean"));
        for text in ["", "www", "sctp [2001:db8::80]:80", "udp [2001:db8::80]:80", "tcp"] {
            assert_eq!(find(text).unwrap_err().name(), Some("not_found"), "{text}");
        }
    }
}
