//! SYNPROXY, fact by fact.

use gyre::counters::{DropReason, ReplyKind};
use gyre::dataplane::Verdict;
use gyre::message::FlowState;
use gyre::model::ClientAddress;
use gyre::wire::build::TcpBuilder;
use gyre::wire::tcp::TcpOption;

use crate::network::{Random, TOA_KIND};
use crate::segment::Segment;
use crate::support::{CLIENT, SERVER};
use crate::talk::*;

/// What a Linux client offers.
fn linux_syn(talk: &Talk) -> TcpBuilder {
    talk.client_segment()
        .flags(SYN)
        .seq(C)
        .option(TcpOption::Mss(1460))
        .option(TcpOption::SackPermitted)
        .option(TcpOption::Timestamps { value: 500, echo: 0 })
        .option(TcpOption::Nop)
        .option(TcpOption::WindowScale(9))
}

fn linux_answer(talk: &Talk, scale: u8) -> TcpBuilder {
    talk.server_segment()
        .flags(SYN | ACK)
        .seq(S)
        .ack(C + 1)
        .window(65_160)
        .option(TcpOption::Mss(1400))
        .option(TcpOption::SackPermitted)
        .option(TcpOption::Timestamps { value: 90_000, echo: 500 })
        .option(TcpOption::Nop)
        .option(TcpOption::WindowScale(scale))
}

/// A client without options gets its cookie; the answer.
fn cookie(talk: &mut Talk) -> Segment {
    let answer = talk.client(SYN, C, 0, b"");
    assert_eq!(answer.sent[0].0, CLIENT);
    answer.one().clone()
}

/// A client without options proves its cookie; the cookie, and the SYN to the server.
fn proven(talk: &mut Talk) -> (u32, Segment) {
    let cookie = cookie(talk).seq;
    let said = talk.client(ACK, C + 1, cookie + 1, b"");
    assert_eq!(said.sent[0].0, SERVER);
    (cookie, said.one().clone())
}

#[test]
fn syn_is_answered_with_a_cookie_and_remembered_nowhere() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    let answer = cookie(&mut talk);
    assert_eq!((answer.flags, answer.ack), (SYN | ACK, C + 1));
    assert_eq!((answer.mss, answer.window), (Some(1460), 2920), "a segment or two");
    assert_eq!((answer.scale, answer.sack_permitted, answer.timestamps), (None, false, None));
    assert_eq!(talk.director.flows(), []);
    assert_eq!(talk.replies(ReplyKind::SynCookie), 1);
}

#[test]
fn cookie_offers_what_client_and_servers_have() {
    let mut talk = Talk::new(0, ClientAddress::Toa { kind: TOA_KIND, on_syn: false }, true);
    let syn = linux_syn(&talk);
    let answer = talk.send(CLIENT, syn).one().clone();
    assert_eq!((answer.mss, answer.scale, answer.sack_permitted), (Some(1452), Some(7), true));
    assert_eq!(answer.timestamps.unwrap().1, 500);
}

#[test]
fn proof_opens_a_flow_and_sends_the_clients_syn() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    let syn = linux_syn(&talk);
    let answer = talk.send(CLIENT, syn).one().clone();
    let stamp = answer.timestamps.unwrap().0;
    let proof = talk.client_segment().flags(ACK).seq(C + 1).ack(answer.seq.wrapping_add(1));
    let proof = proof.window(100).option(TcpOption::Timestamps { value: 520, echo: stamp });
    let syn = talk.send(CLIENT, proof).one().clone();
    assert_eq!((syn.flags, syn.seq, syn.ack), (SYN, C, 0));
    assert_eq!((syn.mss, syn.scale, syn.sack_permitted), (Some(1460), Some(9), true));
    assert_eq!((syn.timestamps, syn.window), (Some((520, 0)), 49_152), "96 << 9");
    assert_eq!(talk.flow_state(), Some(FlowState::SynRecv));
    assert_eq!(talk.replies(ReplyKind::ServerSyn), 1);
}

#[test]
fn answer_of_the_server_joins_both_halves() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    let syn = linux_syn(&talk);
    let answer = talk.send(CLIENT, syn).one().clone();
    let (cookie, stamp) = (answer.seq, answer.timestamps.unwrap().0);
    let stamps = |value, echo| TcpOption::Timestamps { value, echo };
    let proof = talk.client_segment().flags(ACK).seq(C + 1).ack(cookie.wrapping_add(1)).window(400);
    let proof = proof.option(stamps(520, stamp));
    talk.send(CLIENT, proof);
    let answer = linux_answer(&talk, 9);
    let said = talk.send(SERVER, answer);
    let [(SERVER, ack), (CLIENT, update)] = said.sent.as_slice() else { panic!("{said:?}") };
    assert_eq!((ack.flags, ack.seq, ack.ack), (ACK, C + 1, S + 1));
    assert_eq!((ack.window, ack.timestamps), (400, Some((520, 90_000))));
    assert_eq!((update.flags, update.seq, update.ack), (ACK, cookie.wrapping_add(1), C + 1));
    assert_eq!(update.timestamps, Some((stamp, 500)));
    assert_eq!(update.window, 508, "65,160 in steps of 128, by way of steps of 512");
    assert_eq!(talk.flow_state(), Some(FlowState::Established));

    // For life: numbers, blocks, times and windows of the server.
    let data = talk.server_segment().flags(ACK).seq(S + 1).ack(C + 1).window(1000);
    let data = data.option(stamps(90_010, 520)).sack(&[(C + 5, C + 9)]).payload(b"hello");
    let data = talk.send(SERVER, data).one().clone();
    assert_eq!((data.seq, data.ack, data.window), (cookie.wrapping_add(1), C + 1, 4000));
    assert_eq!(data.timestamps, Some((stamp.wrapping_add(10), 520)));
    assert_eq!(data.sacks, [(C + 5, C + 9)]);
    let reply = talk.client_segment().flags(ACK).seq(C + 1).ack(cookie.wrapping_add(6)).window(300);
    let reply = reply.option(stamps(530, stamp.wrapping_add(10)));
    let reply = reply.sack(&[(cookie.wrapping_add(8), cookie.wrapping_add(9))]);
    let reply = talk.send(CLIENT, reply).one().clone();
    assert_eq!((reply.seq, reply.ack, reply.window), (C + 1, S + 6, 300));
    assert_eq!(
        (reply.timestamps, reply.sacks.as_slice()),
        (Some((530, 90_010)), &[(S + 8, S + 9)][..])
    );
}

#[test]
fn window_that_outgrows_its_field_is_as_large_as_it_can_be() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    let syn = linux_syn(&talk);
    let answer = talk.send(CLIENT, syn).one().clone();
    let stamps = TcpOption::Timestamps { value: 520, echo: answer.timestamps.unwrap().0 };
    let proof = talk.client_segment().flags(ACK).seq(C + 1).ack(answer.seq.wrapping_add(1));
    talk.send(CLIENT, proof.option(stamps));
    let answer = linux_answer(&talk, 14);
    talk.send(SERVER, answer);
    let data = talk.server(ACK, S + 1, C + 1, b"x");
    assert_eq!(data.one().window, u16::MAX);
}

#[test]
fn early_data_reaches_the_server_once_it_answers() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV2, true);
    let cookie = cookie(&mut talk).seq;
    let syn = talk.client(ACK, C + 1, cookie + 1, b"GET").one().clone();
    assert_eq!((syn.flags, syn.seq, syn.payload.len()), (SYN, C, 0));
    let consumed = Some(DropReason::SynproxyConsumed);
    assert_eq!(talk.client(ACK, C + 1, cookie + 1, b"GET").dropped(), consumed, "repeated");
    assert_eq!(talk.client(ACK | FIN, C + 4, cookie + 1, b" /").dropped(), consumed);
    let third = talk.client(ACK, C + 6, cookie + 1, b"more").dropped();
    assert_eq!(third, Some(DropReason::SynproxyEarlyData));
    let said = talk.server(SYN | ACK, S, C + 1, b"");
    let [(SERVER, first), (SERVER, second), (CLIENT, update)] = said.sent.as_slice() else {
        panic!("{said:?}")
    };
    assert_eq!((first.seq, first.ack, first.payload.len()), (C + 1, S + 1, 28 + 3));
    assert!(first.payload.ends_with(b"GET"));
    assert_eq!((second.seq, second.flags), (C + 4 + 28, ACK | FIN));
    assert_eq!((update.seq, update.ack), (cookie + 1, C + 1));
    assert_eq!(talk.flow_state(), Some(FlowState::CloseWait));
}

#[test]
fn toa_and_header_go_with_the_ack_to_the_server() {
    for address in [ClientAddress::Toa { kind: TOA_KIND, on_syn: false }, ClientAddress::ProxyV1] {
        let mut talk = Talk::new(1, address, true);
        let (_, syn) = proven(&mut talk);
        assert_eq!((syn.others.len(), syn.payload.len()), (0, 0));
        let said = talk.server(SYN | ACK, S, C + 1, b"");
        let [(nic, ack), (CLIENT, _)] = said.sent.as_slice() else {
            let drops: Vec<_> = DropReason::ALL.iter().filter(|r| talk.drops(**r) > 0).collect();
            panic!("{drops:?} {said:?}")
        };
        assert_eq!((*nic, ack.seq), (SERVER, C + 1));
        assert!(ack.others.len() == 1 || ack.payload.starts_with(b"PROXY TCP6 2001:db8:c::7 "));
        let update = &said.sent[1].1;
        assert_eq!(update.ack, C + 1);
    }
}

#[test]
fn refusal_of_the_server_resets_the_client() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, true);
    let (cookie, _) = proven(&mut talk);
    let reset = talk.server(RST | ACK, 0, C + 1, b"");
    assert_eq!(reset.sent[0].0, CLIENT);
    let reset = reset.one();
    assert_eq!((reset.flags, reset.seq, reset.ack), (RST | ACK, cookie + 1, C + 1));
    assert_eq!(talk.drops(DropReason::SynproxyServerRefused), 1);
    assert_eq!(talk.director.state.counters.servers[0].refused.get(), 1);
    assert_eq!(talk.flow_state(), Some(FlowState::Close));
}

#[test]
fn silent_server_is_asked_again_and_then_the_client_is_reset() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    let (cookie, _) = proven(&mut talk);
    let mut syns = Vec::new();
    let mut resets = Vec::new();
    for tick in 1..400 {
        for (nic, segment) in talk.wait(0.1) {
            let heard = if nic == SERVER { &mut syns } else { &mut resets };
            heard.push((tick, segment));
        }
    }
    let at: Vec<i32> = syns.iter().map(|(tick, _)| *tick).collect();
    assert_eq!(at.len(), 4, "{at:?}");
    assert!(
        at.iter().zip([10, 30, 70, 150]).all(|(at, want)| (want..want + 8).contains(at)),
        "{at:?}"
    );
    assert!(syns.iter().all(|(_, syn)| (syn.flags, syn.seq) == (SYN, C)));
    let [(tick, reset)] = resets.as_slice() else { panic!("{resets:?}") };
    assert!((310..330).contains(tick), "31 s: {tick}");
    assert_eq!((reset.flags, reset.seq, reset.ack), (RST | ACK, cookie + 1, C + 1));
    assert_eq!(talk.drops(DropReason::SynproxyServerRefused), 1);
    assert_eq!(talk.director.state.counters.servers[0].refused.get(), 1);
    talk.wait(15.0);
    assert_eq!(talk.director.flows(), []);
}

#[test]
fn answer_to_the_first_syn_ends_the_asking() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    proven(&mut talk);
    talk.server(SYN | ACK, S, C + 1, b"");
    assert_eq!(talk.wait(40.0), []);
    assert_eq!(talk.flow_state(), Some(FlowState::Established));
}

#[test]
fn server_without_what_was_promised_costs_one_client() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    let syn = linux_syn(&talk);
    let answer = talk.send(CLIENT, syn).one().clone();
    let stamps = TcpOption::Timestamps { value: 520, echo: answer.timestamps.unwrap().0 };
    let proof = talk.client_segment().flags(ACK).seq(C + 1).ack(answer.seq.wrapping_add(1));
    talk.send(CLIENT, proof.option(stamps));
    let plain =
        talk.server_segment().flags(SYN | ACK).seq(S).ack(C + 1).option(TcpOption::Mss(1000));
    let said = talk.send(SERVER, plain);
    let [(CLIENT, reset), (SERVER, back)] = said.sent.as_slice() else { panic!("{said:?}") };
    assert_eq!((reset.flags, reset.seq), (RST | ACK, answer.seq.wrapping_add(1)));
    assert_eq!((back.flags, back.seq), (RST, C + 1));
    talk.src_port = 40_001;
    let syn = linux_syn(&talk);
    let answer = talk.send(CLIENT, syn).one().clone();
    assert_eq!((answer.mss, answer.scale), (Some(1000), None));
    assert_eq!((answer.sack_permitted, answer.timestamps), (false, None));
}

#[test]
fn wrong_cookie_is_reset_so_many_times_a_second() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    let cookie = cookie(&mut talk).seq;
    let mut resets = 0;
    // Those that look like a client's later segments are left alone.
    for guess in 0..3000_u32 {
        let said = talk.client(ACK, C + 1, cookie.wrapping_add(2 + guess), b"");
        match said.verdict {
            Verdict::Transmit(CLIENT) => {
                assert_eq!(
                    (said.one().flags, said.one().seq),
                    (RST, cookie.wrapping_add(2 + guess))
                );
                resets += 1;
            }
            verdict => assert_eq!(verdict, Verdict::Drop(DropReason::SynproxyBadCookie)),
        }
    }
    assert_eq!(resets, 1000);
    assert_eq!(talk.drops(DropReason::SynproxyBadCookie), 3000);
    assert_eq!(talk.director.flows(), []);
    talk.wait(1.0);
    assert_eq!(talk.client(ACK, C + 1, cookie.wrapping_add(2), b"").one().flags, RST);
}

#[test]
fn segment_that_overtakes_the_proof_is_not_reset() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    let cookie = cookie(&mut talk).seq;
    let later = talk.client(ACK, C + 1001, cookie + 1, b"second");
    assert_eq!(later.dropped(), Some(DropReason::SynproxyBadCookie));
    assert_eq!(talk.client(ACK, C + 1, cookie + 1, b"").one().flags, SYN);
}

#[test]
fn old_cookie_is_worth_nothing() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    let cookie = cookie(&mut talk).seq;
    talk.wait(128.0);
    let late = talk.client(ACK, C + 1, cookie + 1, b"");
    assert!(late.sent.iter().all(|(nic, _)| *nic == CLIENT), "{late:?}");
    assert_eq!(talk.drops(DropReason::SynproxyBadCookie), 1);
}

#[test]
fn client_may_take_up_to_a_minute_with_its_proof() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    let cookie = cookie(&mut talk).seq;
    talk.wait(63.0);
    assert_eq!(talk.client(ACK, C + 1, cookie + 1, b"").one().flags, SYN);
}

#[test]
fn client_that_repeats_itself_while_waiting_is_not_echoed() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    let (cookie, _) = proven(&mut talk);
    let consumed = Some(DropReason::SynproxyConsumed);
    assert_eq!(talk.client(SYN, C, 0, b"").dropped(), consumed);
    assert_eq!(talk.client(ACK, C + 1, cookie + 1, b"").dropped(), consumed);
    let outside = Some(DropReason::OutOfWindow);
    assert_eq!(talk.client(ACK, C + 1, cookie + 9, b"").dropped(), outside);
    assert_eq!(talk.client(ACK, C + 100_000, cookie + 1, b"x").dropped(), outside);
    assert_eq!(talk.client(RST, C + 100_000, 0, b"").dropped(), outside);
}

#[test]
fn client_that_gives_up_takes_its_server_along() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, true);
    let (cookie, _) = proven(&mut talk);
    let reset = talk.client(RST | ACK, C + 1, cookie + 1, b"");
    assert_eq!(reset.sent[0].0, SERVER);
    assert_eq!((reset.one().flags, reset.one().seq), (RST | ACK, C + 1));
    assert_eq!(talk.flow_state(), Some(FlowState::Close));
    assert_eq!(talk.wait(5.0), [], "no further SYN");
}

#[test]
fn server_with_an_old_connection_is_cleared_by_a_reset() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    proven(&mut talk);
    let stray = talk.server(ACK, 55, 4444, b"");
    assert_eq!(stray.sent[0].0, SERVER);
    assert_eq!((stray.one().flags, stray.one().seq), (RST, 4444));
    assert_eq!(talk.flow_state(), Some(FlowState::SynRecv));
    let again = talk.wait(1.2);
    assert_eq!((again.len(), again[0].1.flags), (1, SYN));
}

#[test]
fn ended_flow_stays_until_a_new_client_has_proven_itself() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    let (cookie, _) = proven(&mut talk);
    talk.server(SYN | ACK, S, C + 1, b"");
    talk.server(ACK | FIN, S + 1, C + 1, b"");
    talk.client(ACK | FIN, C + 1, cookie + 2, b"");
    talk.server(ACK, S + 2, C + 2, b"");
    assert_eq!(talk.flow_state(), Some(FlowState::TimeWait));
    // Anybody can send a SYN in the client's name.
    let first = C + 500_000;
    let answer = talk.client(SYN, first, 0, b"").one().clone();
    assert_eq!(answer.flags, SYN | ACK);
    let late = talk.client(ACK | FIN, C + 1, cookie + 2, b"");
    assert_eq!((late.sent[0].0, late.one().ack), (SERVER, S + 2), "the old connection's");
    let syn = talk.client(ACK, first + 1, answer.seq.wrapping_add(1), b"").one().clone();
    assert_eq!((syn.flags, syn.seq), (SYN, first));
    assert_eq!(talk.flow_state(), Some(FlowState::SynRecv));
}

#[test]
fn proof_without_a_source_port_is_reset() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    proven(&mut talk);
    talk.src_port = 40_001;
    let cookie = cookie(&mut talk).seq;
    let reset = talk.client(ACK, C + 1, cookie + 1, b"");
    assert_eq!((reset.sent[0].0, reset.one().flags, reset.one().seq), (CLIENT, RST, cookie + 1));
    assert_eq!(talk.drops(DropReason::NoSourcePort), 1);
}

#[test]
fn segments_that_neither_ask_nor_prove_are_as_for_any_service() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    for flags in [SYN | ACK, SYN | FIN, FIN, PSH] {
        let said = talk.client(flags, C, 5, b"");
        assert!(said.sent.iter().all(|(nic, s)| *nic == CLIENT && s.has(RST)), "{said:?}");
    }
    assert_eq!(talk.drops(DropReason::Unclassified), 4);
    assert_eq!(talk.client(RST, C, 5, b"").sent.len(), 0);
}

#[test]
fn ended_flows_give_back_their_early_data() {
    let mut talk = Talk::new(0, ClientAddress::None, true);
    // More flows than buffers, one after the other, each with early data when it goes.
    for round in 0..1200_u32 {
        talk.src_port = 20_000 + round as u16;
        let cookie = cookie(&mut talk).seq;
        let said = talk.client(ACK, C + 1, cookie.wrapping_add(1), b"GET");
        assert_eq!(said.one().flags, SYN, "round {round}");
        let port = said.one().src.unwrap().1;
        assert_eq!(port, 1024);
        match round % 3 {
            0 => drop(talk.server(RST | ACK, 0, C + 1, b"")),
            1 => drop(talk.client(RST | ACK, C + 1, cookie.wrapping_add(1), b"")),
            _ => {
                talk.server(SYN | ACK, S, C + 1, b"");
                talk.server(RST, S + 1, 0, b"");
            }
        }
    }
    assert_eq!(talk.drops(DropReason::SynproxyEarlyData), 0);
}

/// Any segment in any state: no panic, and whatever leaves has its lengths and sums right.
#[test]
fn any_segment_at_any_time_is_survived() {
    let kinds = [
        ClientAddress::None,
        ClientAddress::Toa { kind: TOA_KIND, on_syn: true },
        ClientAddress::ProxyV1,
        ClientAddress::ProxyV2,
    ];
    let mut random = Random(0xf00d);
    for round in 0..120 {
        let synproxy = round % 2 == 0;
        let mut talk = Talk::new(round / 2 % 2, kinds[round / 4 % 4], synproxy);
        let mut cookie = 0;
        for _ in 0..60 {
            talk.src_port = PORT + random.below(2) as u16;
            let seq = [C, C + 1, C + 4, C + 45, random.below(1 << 32) as u32];
            let ack = [S, S + 1, cookie, cookie.wrapping_add(1), random.below(1 << 32) as u32];
            let from_server = talk.local.is_some() && random.below(2) == 0;
            let segment = if from_server { talk.server_segment() } else { talk.client_segment() };
            let (seq, ack) = if from_server { (ack, seq) } else { (seq, ack) };
            let flags = [SYN, ACK, ACK, ACK, SYN | ACK, RST, RST | ACK, FIN | ACK];
            let flags = match random.below(10) as usize {
                9 => gyre::wire::tcp::TcpFlags(random.below(256) as u8),
                at => flags[at % 8],
            };
            let count = [0, 0, 3, 600, 1400][random.below(5) as usize];
            let payload = random.bytes(count);
            let count = random.below(41) as usize / 4 * 4;
            let mut options = random.bytes(count);
            if random.below(2) == 0 {
                options = [&[2, 4, 5, 0xb4, 3, 3, 7, 4, 2, 8, 10][..], &[9; 8], &[5, 10], &[7; 8]]
                    .concat();
                options.push(1);
                options.push(1);
                options.push(1);
            }
            let segment = segment
                .flags(flags)
                .seq(seq[random.below(5) as usize])
                .ack(ack[random.below(5) as usize])
                .raw_options(&options)
                .payload(&payload);
            let said = talk.send(if from_server { SERVER } else { CLIENT }, segment);
            if let Some((_, answer)) = said.sent.iter().find(|(_, s)| s.has(SYN | ACK)) {
                cookie = answer.seq;
            }
            if random.below(8) == 0 {
                talk.wait(random.below(30) as f64 / 10.0);
            }
        }
    }
}
