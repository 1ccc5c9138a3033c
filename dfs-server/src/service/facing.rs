//! Requests as they come over the wire: who may send which, decoded and answered.

use super::driver::Driver;
use crate::replica::{Request, Response, Sender};
use crate::scrub::Scrubber;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::SessionId;
use dfs_proto::msg::Request as _;
use dfs_proto::msg::chunk::{
    BindSession, FindChunks, MeasureStored, ReadChunk, SyncChunks, WriteChunk,
};
use dfs_proto::msg::control::{
    AdoptEpochs, CutInode, EpochsEffective, EqualiseGroups, FenceSessions, MeasureInodes,
    ReleaseGroups, VerifyChunks,
};
use dfs_proto::msg::peer::{
    Committed, FetchChunk, ForwardWrite, GetChunkStates, GetMarks, InstallChunk, InstallFloors,
    ListChunks, SyncGroup,
};
use dfs_proto::msg::scrub::CheckChunk;
use dfs_proto::payload::Payload;
use dfs_proto::transport::{Connection, Incoming, Role, Service};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What serves the requests of one kind of connection.
#[derive(Debug)]
pub struct Facing {
    driver: Arc<Driver>,
    /// Connections made by this server, to the directory, and what it may ask beside the core's
    /// work. Accepted ones bring mounts and servers.
    directory: Option<Arc<Scrubber>>,
    /// The session of each mount's connection.
    bound: Mutex<HashMap<u64, SessionId>>,
}

impl Facing {
    /// For connections that are accepted.
    pub fn others(driver: Arc<Driver>) -> Arc<Self> {
        Arc::new(Self {
            driver,
            directory: None,
            bound: Mutex::default(),
        })
    }

    /// For the connection to the directory.
    pub fn directory(driver: Arc<Driver>, scrubber: Arc<Scrubber>) -> Arc<Self> {
        Arc::new(Self {
            driver,
            directory: Some(scrubber),
            bound: Mutex::default(),
        })
    }

    fn sender(&self, connection: &Connection) -> Option<Sender> {
        let peer = connection.peer();
        match (self.directory.is_some(), peer.role) {
            (true, Role::Directory) => Some(Sender::Directory),
            (false, Role::FileServer) => Some(Sender::Server(peer.incarnation)),
            (false, Role::Mount) => Some(Sender::Mount),
            _ => None,
        }
    }

    fn bound(&self) -> MutexGuard<'_, HashMap<u64, SessionId>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A mount's connection is of one session; no request of it may name another.
    fn check_session(&self, incoming: &Incoming, request: &Request) -> Result<(), Error> {
        let Request::Write(write) = request else {
            return Ok(());
        };
        match self.bound().get(&incoming.connection.id()) {
            Some(session) if *session != write.session => Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("this connection is of {session}, not of {}", write.session),
            )),
            _ => Ok(()),
        }
    }
}

impl Service for Facing {
    fn serve(&self, mut incoming: Incoming) {
        let Some(from) = self.sender(&incoming.connection) else {
            return incoming.refuse_unknown();
        };
        match (incoming.method, from) {
            (BindSession::METHOD, Sender::Mount) => match incoming.decode::<BindSession>() {
                Ok(bind) => {
                    let id = incoming.connection.id();
                    self.bound().insert(id, bind.session);
                    incoming.answer::<BindSession>(Ok(()), Payload::default());
                }
                Err(error) => incoming.refuse(error),
            },
            (VerifyChunks::METHOD, Sender::Directory) => match incoming.decode() {
                Ok(request) => self.driver.verify(incoming, request),
                Err(error) => incoming.refuse(error),
            },
            (method, Sender::Directory) if Scrubber::serves(method) => match &self.directory {
                Some(scrubber) => scrubber.clone().serve(incoming),
                None => incoming.refuse_unknown(),
            },
            _ => {
                let Some(decoded) = decode(&incoming, from) else {
                    return incoming.refuse_unknown();
                };
                let checked = decoded.and_then(|request| {
                    self.check_session(&incoming, &request)?;
                    Ok(request)
                });
                match checked {
                    Ok(request) => {
                        let payload = incoming.take_payload();
                        self.driver.request(from, incoming, request, payload);
                    }
                    Err(error) => incoming.refuse(error),
                }
            }
        }
    }

    fn disconnected(&self, connection: &Connection) {
        self.bound().remove(&connection.id());
    }
}

/// The request, if this kind of sender may send it.
fn decode(incoming: &Incoming, from: Sender) -> Option<Result<Request, Error>> {
    macro_rules! one_of {
        ($($message:ident => $request:ident),* $(,)?) => {
            match incoming.method {
                $($message::METHOD => {
                    Some(incoming.decode::<$message>().map(Request::$request))
                })*
                _ => None,
            }
        };
    }
    match from {
        Sender::Own => None,
        Sender::Mount => one_of! {
            ReadChunk => Read,
            WriteChunk => Write,
            SyncChunks => Sync,
            FindChunks => Find,
            MeasureStored => Stored,
        },
        Sender::Directory => one_of! {
            AdoptEpochs => Adopt,
            EqualiseGroups => Equalise,
            EpochsEffective => Effective,
            CutInode => Cut,
            FenceSessions => Fence,
            MeasureInodes => Measure,
            ReleaseGroups => Release,
        },
        Sender::Server(_) => one_of! {
            ForwardWrite => Forward,
            GetMarks => Marks,
            ListChunks => List,
            GetChunkStates => States,
            InstallFloors => InstallFloors,
            FetchChunk => Fetch,
            InstallChunk => Install,
            SyncGroup => SyncGroup,
            Committed => Committed,
            CheckChunk => Check,
        },
    }
}

/// Sends an answer of the core.
pub(super) fn answer(incoming: Incoming, result: Result<Response, Error>, payload: Payload) {
    let response = match result {
        Ok(response) => response,
        Err(error) => return incoming.refuse(error),
    };
    let method = incoming.method;
    match response {
        Response::Read(read) => incoming.answer::<ReadChunk>(Ok(read), payload),
        Response::Found(found) => incoming.answer::<FindChunks>(Ok(found), payload),
        Response::Stored(stored) => incoming.answer::<MeasureStored>(Ok(stored), payload),
        Response::Written(written) => incoming.answer::<WriteChunk>(Ok(written), payload),
        Response::Adopted(adopted) => incoming.answer::<AdoptEpochs>(Ok(adopted), payload),
        Response::Equalised(groups) => incoming.answer::<EqualiseGroups>(Ok(groups), payload),
        Response::Cut(made) => incoming.answer::<CutInode>(Ok(made), payload),
        Response::Released(released) => incoming.answer::<ReleaseGroups>(Ok(released), payload),
        Response::Measured(measured) => incoming.answer::<MeasureInodes>(Ok(measured), payload),
        Response::Fenced(fenced) => incoming.answer::<FenceSessions>(Ok(fenced), payload),
        Response::Forwarded(forwarded) => incoming.answer::<ForwardWrite>(Ok(forwarded), payload),
        Response::Marks(marks) => incoming.answer::<GetMarks>(Ok(marks), payload),
        Response::Page(page) => incoming.answer::<ListChunks>(Ok(page), payload),
        Response::States(states) => incoming.answer::<GetChunkStates>(Ok(states), payload),
        Response::Image(image) => incoming.answer::<FetchChunk>(Ok(image), payload),
        Response::Checked(checked) => incoming.answer::<CheckChunk>(Ok(checked), payload),
        // Nobody asks for these over the wire.
        Response::Keys(_) | Response::Scrubbed(_) => {
            incoming.refuse(Error::bare(ErrorCode::Internal));
        }
        Response::Done => match method {
            SyncChunks::METHOD => incoming.answer::<SyncChunks>(Ok(()), payload),
            EpochsEffective::METHOD => incoming.answer::<EpochsEffective>(Ok(()), payload),
            InstallFloors::METHOD => incoming.answer::<InstallFloors>(Ok(()), payload),
            InstallChunk::METHOD => incoming.answer::<InstallChunk>(Ok(()), payload),
            SyncGroup::METHOD => incoming.answer::<SyncGroup>(Ok(()), payload),
            Committed::METHOD => incoming.answer::<Committed>(Ok(()), payload),
            _ => incoming.refuse(Error::bare(ErrorCode::Internal)),
        },
    }
}
