//! JSON-RPC 2.0 envelopes (<https://www.jsonrpc.org/specification>): a line of bytes to calls, and
//! replies to lines. Knows no method and does no I/O.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::{ApiError, ErrorCode};
use crate::limits::BATCH_CALLS_MAX;

/// A request's `id`: a string, a number or null, given back unchanged.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Id(Value);

impl Id {
    /// The id of replies to what could not be understood.
    pub const NULL: Id = Id(Value::Null);
}

/// A method and its parameters, not yet typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Method name.
    pub method: String,
    /// A JSON object or array, if any came.
    pub params: Option<Value>,
}

/// One member of a line: a call or what is wrong with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Where the reply goes; `None` for a notification, which gets none.
    pub reply_to: Option<Id>,
    /// The call, or the error to reply with.
    pub call: Result<Call, ApiError>,
}

/// What a line holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// White space only: ignored, so that a stray newline does no harm.
    Blank,
    /// One request.
    One(Item),
    /// A batch, answered by one array in the same order.
    Batch(Vec<Item>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(default)]
    params: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    id: Option<Value>,
}

/// Tells `"id": null`, which wants a reply, from no id.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Item {
    fn refused(error: ApiError) -> Self {
        Item { reply_to: Some(Id::NULL), call: Err(error) }
    }

    fn read(raw: &RawValue) -> Self {
        let envelope: Envelope<'_> = match serde_json::from_str(raw.get()) {
            Ok(envelope) => envelope,
            Err(error) => return Item::refused(not_a_request(raw, &error)),
        };
        let id_is_valid = match &envelope.id {
            None => true,
            Some(id) => id.is_string() || id.is_number() || id.is_null(),
        };
        if !id_is_valid {
            return Item::refused(invalid("`id` must be a string, a number or null"));
        }
        let call = if envelope.jsonrpc != "2.0" {
            Err(invalid("`jsonrpc` must be \"2.0\""))
        } else if envelope.params.as_ref().is_some_and(|p| !p.is_object() && !p.is_array()) {
            Err(invalid("`params` must be an object"))
        } else {
            Ok(Call { method: envelope.method.into_owned(), params: envelope.params })
        };
        // An invalid request is answered even without an id, since it is no notification.
        let reply_to = match (&call, envelope.id) {
            (_, Some(id)) => Some(Id(id)),
            (Ok(_), None) => None,
            (Err(_), None) => Some(Id::NULL),
        };
        Item { reply_to, call }
    }
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, message)
        .hint(r#"send {"jsonrpc":"2.0","id":1,"method":"status","params":{}} in one line"#)
}

fn not_a_request(raw: &RawValue, error: &serde_json::Error) -> ApiError {
    if raw.get().starts_with('{') {
        invalid(format!("not a JSON-RPC 2.0 request: {error}"))
    } else {
        invalid("not a JSON-RPC 2.0 request: an object is needed")
    }
}

impl Line {
    /// Reads one line, without its newline. Never fails: errors are items to reply with.
    pub fn read(bytes: &[u8]) -> Self {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Line::Blank;
        }
        let raw: &RawValue = match serde_json::from_slice(bytes) {
            Ok(raw) => raw,
            Err(error) => {
                let message = format!("not JSON: {error}");
                return Line::One(Item::refused(ApiError::new(ErrorCode::ParseError, message)));
            }
        };
        if !raw.get().starts_with('[') {
            return Line::One(Item::read(raw));
        }
        match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
            Ok(items) if items.is_empty() => {
                Line::One(Item::refused(invalid("the batch is empty")))
            }
            Ok(items) if items.len() > BATCH_CALLS_MAX => Line::One(Item::refused(invalid(
                format!("a batch of {} calls; {BATCH_CALLS_MAX} is the most", items.len()),
            ))),
            Ok(items) => Line::Batch(items.into_iter().map(Item::read).collect()),
            Err(error) => Line::One(Item::refused(invalid(format!("not a batch: {error}")))),
        }
    }
}

/// A successful result as text, or an error.
pub type Outcome = Result<Box<RawValue>, ApiError>;

#[derive(Serialize)]
struct Reply<'a> {
    jsonrpc: &'static str,
    id: &'a Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ApiError>,
}

/// Appends one reply object, without newline.
pub fn write_reply(out: &mut Vec<u8>, id: &Id, outcome: &Outcome) {
    let reply = Reply {
        jsonrpc: "2.0",
        id,
        result: outcome.as_ref().ok().map(|raw| &**raw),
        error: outcome.as_ref().err(),
    };
    // Writing strings and numbers into memory has no way to fail.
    let written = serde_json::to_writer(out, &reply);
    debug_assert!(written.is_ok());
}

/// A notification, without newline: what the server tells unasked.
pub fn write_notification(method: &str, params: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Notification<'a, T> {
        jsonrpc: &'static str,
        method: &'a str,
        params: &'a T,
    }
    // Our own types have string keys only, so this has no way to fail.
    let written = serde_json::to_vec(&Notification { jsonrpc: "2.0", method, params });
    debug_assert!(written.is_ok());
    written.unwrap_or_default()
}

/// A request line for `method`, newline included: the client's side.
pub fn write_request(method: &str, params: Option<&RawValue>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Request<'a> {
        jsonrpc: &'static str,
        id: u32,
        method: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        params: Option<&'a RawValue>,
    }
    let request = Request { jsonrpc: "2.0", id: 1, method, params };
    let mut line = serde_json::to_vec(&request).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Reads a reply line: the client's side. `Err` tells that the peer does not speak JSON-RPC.
pub fn read_reply(line: &[u8]) -> Result<Outcome, serde_json::Error> {
    #[derive(Deserialize)]
    struct Reply {
        result: Option<Box<RawValue>>,
        error: Option<ApiError>,
    }
    let reply: Reply = serde_json::from_slice(line)?;
    match (reply.result, reply.error) {
        (_, Some(error)) => Ok(Err(error)),
        (Some(result), None) => Ok(Ok(result)),
        (None, None) => Err(serde::de::Error::custom("a reply without result or error")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &str) -> Item {
        match Line::read(line.as_bytes()) {
            Line::One(item) => item,
            other => panic!("{other:?}"),
        }
    }

    fn error_of(line: &str) -> (Option<Id>, i32) {
        let item = one(line);
        (item.reply_to, item.call.unwrap_err().code)
    }

    #[test]
    fn a_call_keeps_its_id_whatever_its_kind() {
        for id in ["1", "\"x\"", "null", "1.5", "-3"] {
            let item = one(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"status"}}"#));
            assert_eq!(serde_json::to_string(&item.reply_to.unwrap()).unwrap(), id);
            assert_eq!(item.call.unwrap(), Call { method: "status".into(), params: None });
        }
    }

    #[test]
    fn a_call_without_id_is_a_notification() {
        let item = one(r#"{"jsonrpc":"2.0","method":"status","params":{}}"#);
        assert_eq!(item.reply_to, None);
        assert!(item.call.is_ok());
    }

    #[test]
    fn malformed_lines_get_the_standard_codes_and_a_null_id() {
        let null = Some(Id::NULL);
        for line in ["{", "nonsense", "{\"jsonrpc\":\"2.0\",\"method\"", "[1,", "\u{1}", "{} {}"] {
            assert_eq!(error_of(line), (null.clone(), -32700), "{line}");
        }
        for line in [
            "1",
            "\"text\"",
            "[]",
            "{}",
            r#"{"jsonrpc":"2.0","method":1}"#,
            r#"{"jsonrpc":"2.0","method":"a","parms":{}}"#,
            r#"{"jsonrpc":"2.0","method":"a","method":"b"}"#,
            r#"{"jsonrpc":"2.0","method":"a","id":{}}"#,
            r#"{"jsonrpc":"1.0","method":"a"}"#,
        ] {
            assert_eq!(error_of(line), (null.clone(), -32600), "{line}");
        }
        assert_eq!(Line::read(b"  \r"), Line::Blank);
        assert_eq!(
            error_of(r#"{"jsonrpc":"1.0","method":"a","id":7}"#),
            (Some(Id(7.into())), -32600)
        );
        assert_eq!(error_of(r#"{"jsonrpc":"2.0","method":"a","id":7,"params":3}"#).1, -32600);
    }

    #[test]
    fn a_batch_answers_each_member_on_its_own() {
        let line = br#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"b"},3]"#;
        let Line::Batch(items) = Line::read(line) else { panic!() };
        assert_eq!(items.len(), 3);
        assert!(items[0].call.is_ok() && items[1].reply_to.is_none());
        assert_eq!(items[2].call.as_ref().unwrap_err().code, -32600);
        let many = format!("[{}1]", "1,".repeat(BATCH_CALLS_MAX));
        assert_eq!(error_of(&many).1, -32600);
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let call = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{deep}}}"#);
        assert_eq!(error_of(&call).1, -32600);
        assert!(matches!(Line::read(deep.as_bytes()), Line::Batch(_)));
    }

    #[test]
    fn replies_survive_the_way_to_the_client() {
        let mut line = Vec::new();
        let result = RawValue::from_string("[1,2]".into()).unwrap();
        write_reply(&mut line, &Id::NULL, &Ok(result));
        assert_eq!(read_reply(&line).unwrap().unwrap().get(), "[1,2]");
        let error = ApiError::new(ErrorCode::NotFound, "no service `web`").hint("look");
        line.clear();
        write_reply(&mut line, &Id::NULL, &Err(error.clone()));
        assert_eq!(read_reply(&line).unwrap().unwrap_err(), error);
        assert!(read_reply(b"{}").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_calls_or_errors_and_never_a_panic(bytes: Vec<u8>) {
            let _ = Line::read(&bytes);
        }

        #[test]
        fn mangled_requests_never_panic(at in 0usize..70, byte: u8, cut in 0usize..70) {
            let mut line = br#"[{"jsonrpc":"2.0","id":1,"method":"status","params":{"a":[1,2]}}]"#
                .to_vec();
            let at = at % line.len();
            line[at] = byte;
            line.truncate(line.len() - cut % line.len());
            let _ = Line::read(&line);
        }
    }
}
