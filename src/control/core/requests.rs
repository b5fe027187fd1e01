//! Each method of the socket: answered at once, beside the core, or by work on the registry.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tracing::info;

use super::change::Change;
use super::cursor::Cursor;
use super::difference::{Difference, Side};
use super::view::View;
use super::work::Work;
use super::{Core, sweep, to_outcome};
use crate::config::Mark;
use crate::control::api::rpc::Outcome;
use crate::control::api::{
    ApiError, ChecksResult, ConnectionFilter, DeleteParams, ErrorCode, ListConnectionsParams,
    MarkRow, MarksResult, NeighboursResult, NoParams, PortsResult, Request, ServersResult,
    ServicesResult, TimeoutsResult, WorkersResult,
};
use crate::control::metrics::{CheckFigures, Facts};
use crate::limits::{CONNECTIONS_SHOWN_DEFAULT, CONNECTIONS_SHOWN_MAX};

type Reply = oneshot::Sender<Outcome>;

impl Core {
    /// Answers a request, now or later. A client that went away is no concern.
    pub(super) fn request(&mut self, request: Request, reply: Reply) {
        match request {
            Request::Status(NoParams {}) => {
                let _ = reply.send(to_outcome(&self.view().status()));
            }
            Request::Stats(NoParams {}) => self.show(reply, |view| Ok(view.stats())),
            Request::ServiceList(params) => self.show(reply, move |view| {
                let only = params.service.map(|name| view.find(&name)).transpose()?;
                Ok(ServicesResult { services: view.services(only) })
            }),
            Request::ServerList(params) => self.show(reply, move |view| {
                let only = params.service.map(|name| view.find(&name)).transpose()?;
                Ok(ServersResult { servers: view.servers(only) })
            }),
            Request::CheckList(params) => self.show(reply, move |view| {
                let only = params.service.map(|name| view.find(&name)).transpose()?;
                Ok(ChecksResult { checks: view.checks(only) })
            }),
            Request::WorkersList(NoParams {}) => {
                self.show(reply, |view| Ok(WorkersResult { workers: view.workers() }));
            }
            Request::PortsList(NoParams {}) => {
                self.show(reply, |view| Ok(PortsResult { ports: view.ports() }));
            }
            Request::NeighboursList(NoParams {}) => {
                self.show(reply, |view| Ok(NeighboursResult { neighbours: view.neighbours() }));
            }
            Request::ConnectionsList(params) => self.list_connections(&params, reply),
            Request::ConnectionsDelete(params) => self.delete_connections(&params, reply),
            Request::ConfigGet(params) => self.get_config(params, reply),
            Request::ConfigApply(params) => self.parse_config(params, reply),
            Request::ConfigReload(params) => self.reload(params, reply),
            Request::ConfigRollback(params) => self.roll_back(params, reply),
            Request::ConfigConfirm(NoParams {}) => drop(reply.send(self.confirm())),
            Request::ConfigRevisions(NoParams {}) => self.enqueue(Work::Revisions { reply }),
            Request::ConfigSave(params) => self.enqueue(Work::Save { params, reply }),
            Request::StatsZero(params) => {
                let zeroed = self.zero(params.service.as_deref());
                let _ = reply.send(zeroed.and_then(|()| to_outcome(&NoParams {})));
            }
            Request::TimeoutsGet(NoParams {}) => {
                let timeouts = self.snapshot.semantics.timeouts;
                let _ = reply.send(to_outcome(&TimeoutsResult {
                    tcp_s: timeouts.established_ms / 1000,
                    tcp_fin_s: timeouts.fin_wait_ms / 1000,
                    udp_s: timeouts.udp_ms / 1000,
                }));
            }
            Request::MarksList(NoParams {}) => drop(reply.send(self.marks())),
            Request::Shutdown(NoParams {}) => {
                info!("asked to stop over the socket");
                let _ = reply.send(to_outcome(&NoParams {}));
                self.stop.request();
            }
            // Events and discovery are answered by whoever carries the line.
            other => match change_of(other) {
                Ok(change) => self.enqueue(Work::Change { change, reply }),
                Err(error) => drop(reply.send(Err(error))),
            },
        }
    }

    fn view(&mut self) -> View {
        View {
            snapshot: self.snapshot.clone(),
            counts: self.counts.clone(),
            rates: Arc::clone(&self.rates),
            pools: self.pools.clone(),
            hops: self.next_hops.rows(),
            ports: (self.port_info)(),
            stalled: (0..self.workers.len()).map(|at| self.watch.is_stalled(at)).collect(),
            config_path: self.config_path.clone(),
            config_revision: self.history.current().unwrap_or(0),
            started: self.started,
            health: Arc::clone(self.health.board.services()),
            now_ms: self.now_ms(),
        }
    }

    /// Gathers what metrics are made of, beside the core.
    pub(super) fn facts(&mut self, reply: oneshot::Sender<Box<Facts>>) {
        let view = self.view();
        let runtime = &self.config.runtime;
        let flow_entries = [runtime.connections, runtime.connections_ipv6];
        let running = self.history.latest().cloned().zip(self.saved.clone());
        let unconfirmed = self.unconfirmed.is_some();
        let board = &self.health.board;
        let checks = CheckFigures {
            checks: board.check_count(),
            rounds: board.rounds,
            late: self.health.late(),
            times: board.times,
        };
        spawn_blocking(move || {
            let unsaved = running.map_or(0, |(running, saved)| {
                let (running, saved) = (Side::from(&running), Side::from(&saved));
                Difference::between(&saved, &running).lines().len() as u64
            });
            let facts = Facts {
                status: view.status(),
                stats: view.stats(),
                workers: Arc::clone(&view.counts.workers),
                flow_entries,
                unsaved,
                unconfirmed,
                checks,
            };
            // A client that went away needs no answer.
            let _ = reply.send(Box::new(facts));
        });
    }

    /// Makes a list beside the core: it may be long.
    fn show<T: Serialize>(
        &mut self,
        reply: Reply,
        make: impl FnOnce(&View) -> Result<T, ApiError> + Send + 'static,
    ) {
        let view = self.view();
        spawn_blocking(move || {
            let _ = reply.send(make(&view).and_then(|result| to_outcome(&result)));
        });
    }

    fn marks(&self) -> Outcome {
        let row = |mark: &Mark| {
            let value = serde_json::to_value(&mark.matches);
            let value = value.map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
            let matches = value.as_array().cloned().unwrap_or_default();
            Ok(MarkRow { mark: mark.number, matches })
        };
        let marks: Result<Vec<MarkRow>, ApiError> = self.config.mark.iter().map(row).collect();
        to_outcome(&MarksResult { marks: marks? })
    }

    fn zero(&mut self, service: Option<&str>) -> Result<(), ApiError> {
        let only = service.map(|name| self.view().find(name)).transpose()?;
        let snapshot = Arc::clone(&self.snapshot);
        let all = snapshot.services.iter().flatten();
        for service in all.filter(|service| only.is_none_or(|id| service.id == id)) {
            self.counts.zero(service);
        }
        Ok(())
    }

    fn list_connections(&mut self, params: &ListConnectionsParams, reply: Reply) {
        let limit = params.limit.unwrap_or(CONNECTIONS_SHOWN_DEFAULT);
        let filter = if (1..=CONNECTIONS_SHOWN_MAX).contains(&limit) {
            let from = params.after.as_deref().map(cursor).transpose();
            from.and_then(|from| Ok((sweep::filter(&params.filter())?, from)))
        } else {
            let message = format!("limit {limit} is not within 1 to {CONNECTIONS_SHOWN_MAX}");
            Err(ApiError::new(ErrorCode::InvalidParams, message).hint("narrow the filter instead"))
        };
        match filter {
            Ok((filter, from)) => {
                let purpose = sweep::Purpose::List { limit, from, reply };
                self.sweeps.want(filter, purpose, &mut self.workers);
                self.pump();
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn delete_connections(&mut self, params: &DeleteParams, reply: Reply) {
        let asked = params.filter();
        let limit = params.limit.unwrap_or(u32::MAX);
        let filter = if limit == 0 {
            Err(ApiError::new(ErrorCode::InvalidParams, "limit 0 deletes nothing")
                .hint("leave it out to delete all that match"))
        } else if params.all == (asked != ConnectionFilter::default()) {
            let message = "connections.delete takes either a filter or \"all\": true";
            Err(ApiError::new(ErrorCode::InvalidParams, message)
                .hint("name client, vip, vport, server or state"))
        } else {
            sweep::filter(&asked)
        };
        match filter {
            Ok(filter) => {
                let purpose = sweep::Purpose::Delete { limit, reply };
                self.sweeps.want(filter, purpose, &mut self.workers);
                self.pump();
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }
}

fn cursor(text: &str) -> Result<Cursor, ApiError> {
    Cursor::parse(text).ok_or_else(|| {
        ApiError::new(ErrorCode::InvalidParams, "`after` is no `next` of connections.list")
            .hint("leave it out to begin at the start")
    })
}

fn change_of(request: Request) -> Result<Change, ApiError> {
    match request {
        Request::ServiceAddMany(params) => Ok(Change::AddServices(params.services)),
        Request::ServiceAdd(params) => Ok(Change::AddService(params.service)),
        Request::ServiceEdit(params) => {
            Ok(Change::EditService { service: params.service, set: params.set })
        }
        Request::ServiceRemoveAll(params) => Ok(Change::RemoveServices(params.mode)),
        Request::ServiceRemove(params) => Ok(Change::RemoveService {
            service: params.service,
            mode: params.mode,
            deadline_s: params.deadline_s,
        }),
        Request::ServerAdd(params) => {
            Ok(Change::AddServer { service: params.service, server: params.server })
        }
        Request::ServerRemove(params) => Ok(Change::RemoveServer {
            service: params.service,
            server: params.server,
            mode: params.mode,
            deadline_s: params.deadline_s,
        }),
        Request::ServerEdit(params) => Ok(Change::EditServer {
            service: params.service,
            server: params.server,
            set: params.set,
        }),
        Request::TimeoutsSet(params) => Ok(Change::SetTimeouts(params)),
        Request::ServerSetWeight(params) => Ok(Change::SetWeight {
            service: params.service,
            server: params.server,
            weight: params.weight,
        }),
        other => {
            let message = format!("{} is no change", other.method());
            Err(ApiError::new(ErrorCode::Internal, message))
        }
    }
}
