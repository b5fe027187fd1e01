//! DNS over UDP: a question, and an answer to it that has the record.
//!
//! Encoding and decoding are a library's. An answer that is not to the question is a failure at
//! once: only the server can have sent it, since the socket is connected and its port is new.

use std::net::IpAddr;
use std::str::FromStr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::{Failure, random};

/// What is awaited.
pub(super) const ANSWER: &str = "DNS answer";

/// What is asked, and what must come back.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    id: u16,
    name: &'a str,
    record: u16,
    address: Option<IpAddr>,
}

impl<'a> Question<'a> {
    /// A question for the records of `name` of a type, among which `address` must be.
    pub(super) fn new(name: &'a str, record: u16, address: Option<IpAddr>) -> Self {
        Question { id: random() as u16, name, record, address }
    }

    /// The question as a datagram.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Failure> {
        let mut message = Message::new(self.id, MessageType::Query, OpCode::Query);
        // A resolver is asked to resolve; an authoritative server does not mind.
        message.metadata.recursion_desired = true;
        message.add_query(self.query()?);
        let refused = |error| Failure::Director(format!("question for {:?}: {error}", self.name));
        message.to_vec().map_err(refused)
    }

    fn query(&self) -> Result<Query, Failure> {
        let refused = |error| Failure::Director(format!("name {:?}: {error}", self.name));
        let mut name = Name::from_str(self.name).map_err(refused)?;
        name.set_fqdn(true);
        Ok(Query::query(name, RecordType::from(self.record)))
    }

    /// Whether `bytes` answer the question, and rightly.
    pub(super) fn judge(&self, bytes: &[u8]) -> Result<(), Failure> {
        let failed = |text: String| Err(Failure::Answer(text));
        let Ok(answer) = Message::from_vec(bytes) else {
            return failed(format!("{} bytes that are not a DNS message", bytes.len()));
        };
        let head = &answer.metadata;
        if head.message_type != MessageType::Response || head.id != self.id {
            return failed("a DNS message that does not answer the question's id".to_owned());
        }
        // A server that cannot even read the question need not repeat it.
        if head.response_code != ResponseCode::NoError {
            return failed(format!("DNS error: {}", head.response_code));
        }
        if answer.queries != [self.query()?] {
            return failed("an answer to another DNS question".to_owned());
        }
        let record = RecordType::from(self.record);
        let fits = |kind: RecordType| record == RecordType::ANY || kind == record;
        let mut fitting = answer.answers.iter().filter(|row| fits(row.record_type()));
        match self.address {
            None if fitting.next().is_some() => Ok(()),
            Some(wanted) if fitting.any(|row| row.data.ip_addr() == Some(wanted)) => Ok(()),
            None => failed(format!("no {record} record for {}{}", self.name, cut(&answer))),
            Some(wanted) => failed(format!(
                "{wanted} is not among the {record} records of {}{}",
                self.name,
                cut(&answer)
            )),
        }
    }
}

/// Why something may be missing.
fn cut(answer: &Message) -> &'static str {
    if answer.metadata.truncation { " (the answer is truncated)" } else { "" }
}
