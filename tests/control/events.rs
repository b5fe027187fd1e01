//! Events over the socket, and the document that describes it all.

use serde_json::{Value, json};

use crate::support::{CONFIG, Client, Gyre};

/// A client that hears events.
fn listener(gyre: &Gyre, params: Value) -> Client {
    let mut client = gyre.connect();
    let reply = client.call("events.subscribe", params);
    assert!(reply["result"]["kinds"].is_array(), "{reply}");
    client
}

/// The next event of one of these kinds.
fn next(client: &mut Client, kind: &str) -> Value {
    loop {
        let line = client.reply();
        assert_eq!((&line["jsonrpc"], &line["method"]), (&json!("2.0"), &json!("event")), "{line}");
        assert!(line.get("id").is_none());
        if line["params"]["kind"] == kind {
            return line["params"].clone();
        }
    }
}

#[test]
fn changes_are_told_to_those_who_asked() {
    let gyre = Gyre::start();
    let mut client = listener(&gyre, json!({}));
    let weight = |weight: u32| {
        let server = json!({"service": "web", "server": "192.0.2.12:8080", "weight": weight});
        gyre.call("server.set_weight", server)
    };
    let changed = weight(0);
    let down = next(&mut client, "server.down");
    assert_eq!(
        (&down["service"], &down["server"], &down["reason"]),
        (&json!("tcp 192.0.2.80:80"), &json!("192.0.2.12:8080"), &json!("weight 0"))
    );
    let told = next(&mut client, "config.changed");
    assert_eq!(
        (&told["revision"], &told["by"]),
        (&changed["revision"], &json!("server.set_weight"))
    );
    assert_eq!(told["changes"], changed["changes"]);
    assert!(
        told["number"].as_u64() > down["number"].as_u64() && told["time_ms"].as_u64() > Some(0)
    );
    weight(2);
    assert_eq!(next(&mut client, "server.up")["reason"], "weight 2");
    // Requests go on over the same connection.
    client.send("{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"status\"}\n");
    loop {
        let line = client.reply();
        if line["id"] == 5 {
            break;
        }
    }
    gyre.call("server.remove", json!({"service": "web", "server": "192.0.2.12:8080"}));
    assert_eq!(next(&mut client, "server.down")["reason"], "draining");
    let gone = next(&mut client, "drain.done");
    assert_eq!(gone["server"], "192.0.2.12:8080");
}

#[test]
fn kinds_may_be_chosen_and_given_up() {
    let gyre = Gyre::start();
    let mut client = listener(&gyre, json!({"kinds": ["config.changed"]}));
    let add = |port: u16| {
        let address = format!("192.0.2.90:{port}");
        gyre.call("service.add", json!({"service": {"address": address}}))
    };
    add(80);
    assert_eq!(client.reply()["params"]["kind"], "config.changed");
    assert_eq!(client.call("events.subscribe", json!({"kinds": []}))["result"]["kinds"], json!([]));
    add(81);
    assert!(client.call("status", json!({}))["result"].is_object());
    let (code, _) = gyre.refuse("events.subscribe", json!({"kinds": ["rain"]}));
    assert_eq!(code, "invalid_params");
}

#[test]
fn workers_that_stall_and_recover_are_told() {
    let gyre = Gyre::start();
    let mut client = listener(&gyre, json!({"kinds": ["worker.stalled", "worker.recovered"]}));
    let stall = |is| gyre.workers[1].stalled.store(is, std::sync::atomic::Ordering::Relaxed);
    stall(true);
    assert_eq!(next(&mut client, "worker.stalled")["worker"], 1);
    stall(false);
    assert_eq!(next(&mut client, "worker.recovered")["worker"], 1);
}

#[test]
fn a_link_that_goes_down_and_comes_back_is_told() {
    let gyre = Gyre::start();
    let mut client = listener(&gyre, json!({"kinds": ["port.down", "port.up"]}));
    gyre.unplugged.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(next(&mut client, "port.down")["port"], "wan");
    assert_eq!(gyre.call("status", json!({}))["ports_down"], json!(["wan"]));
    gyre.unplugged.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(next(&mut client, "port.up")["port"], "wan");
}

#[test]
fn status_tells_the_configurations_revision_and_frames_that_are_no_loss() {
    let gyre = Gyre::start();
    let changed = gyre.call("service.add", json!({"service": {"address": "192.0.2.91:80"}}));
    let drops = |reason: gyre::counters::DropReason| {
        gyre.workers[0].counters.drops[reason as usize].add(3);
    };
    drops(gyre::counters::DropReason::KernelCopy);
    drops(gyre::counters::DropReason::OwnFrame);
    drops(gyre::counters::DropReason::NoRoute);
    let status = gyre.call("status", json!({}));
    assert_eq!((&status["drops"], &status["drops_expected"]), (&json!(9), &json!(6)));
    let rows = gyre.call("config.revisions", json!({}))["revisions"].clone();
    assert_eq!(
        (&status["config_revision"], &rows[0]["running"]),
        (&rows[0]["revision"], &json!(true))
    );
    assert_eq!(status["config_revision"], changed["revision"]);
}

#[test]
fn a_flood_is_told_when_it_begins_and_when_it_is_over() {
    let gyre = Gyre::start();
    let mut client = listener(&gyre, json!({"kinds": ["flood.on", "flood.off"]}));
    let full = gyre::counters::DropReason::TableFull as usize;
    // More than enough in any second, whenever control looks.
    for _ in 0..30 {
        gyre.workers[0].counters.drops[full].add(500);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let on = next(&mut client, "flood.on");
    assert_eq!((&on["worker"], &on["service"]), (&json!(0), &Value::Null));
    assert!(on["per_second"].as_u64() >= Some(1000), "{on}");
    assert_eq!(next(&mut client, "flood.off")["worker"], 0);
}

#[test]
fn discovery_describes_every_method_and_their_answers_fit() {
    let gyre = Gyre::start();
    let document = gyre.call("rpc.discover", json!({}));
    let methods = document["methods"].as_array().unwrap();
    assert_eq!(methods.len(), gyre::control::api::METHODS.len());
    for name in ["status", "service.list", "workers.list", "stats", "config.revisions"] {
        let method = methods.iter().find(|method| method["name"] == name).unwrap();
        let path = method["result"]["schema"]["$ref"].as_str().unwrap();
        let schema = document.pointer(path.strip_prefix('#').unwrap()).unwrap();
        let result = gyre.call(name, json!({}));
        let known = schema["properties"].as_object().unwrap();
        let given = result.as_object().unwrap();
        for required in schema["required"].as_array().unwrap() {
            assert!(given.contains_key(required.as_str().unwrap()), "{name}: {required}");
        }
        for member in given.keys() {
            assert!(known.contains_key(member), "{name}: {member} is not described");
        }
    }
}

#[test]
fn a_listener_that_does_not_read_costs_only_itself() {
    let gyre = Gyre::with(CONFIG, Default::default());
    let mut deaf = listener(&gyre, json!({}));
    for weight in 0..1500 {
        let server = json!({"service": "web", "server": "192.0.2.12:8080", "weight": weight % 2});
        gyre.call("server.set_weight", server);
    }
    // It hears the rest, or that it missed some, in order.
    let mut last = 0;
    for _ in 0..100 {
        let line = deaf.reply();
        let number = line["params"]["number"].as_u64().unwrap();
        assert!(number >= last, "{line}");
        last = number;
    }
}

/// A server that drains has flows for a while; who listens hears of them until they are gone.
#[test]
fn drains_are_told_of_until_they_are_done() {
    let gyre = Gyre::start();
    let revision = gyre.call("status", json!({}))["revision"].as_u64().unwrap();
    let id = gyre.adopted(revision).services.iter().flatten().next().unwrap().servers[1].id;
    gyre.workers[1].counters.servers[id.index()].flows.add(3);
    let mut client = listener(&gyre, json!({"kinds": ["drain.progress", "drain.done"]}));
    gyre.call("server.remove", json!({"service": "web", "server": "192.0.2.12:8080"}));
    let progress = next(&mut client, "drain.progress");
    assert_eq!(
        (&progress["server"], &progress["flows"]),
        (&json!("192.0.2.12:8080"), &json!(3)),
        "{progress}"
    );
    gyre.workers[1].counters.servers[id.index()].flows.sub(3);
    assert_eq!(next(&mut client, "drain.done")["server"], "192.0.2.12:8080");
}
