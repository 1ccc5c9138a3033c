//! The directory of the cluster in memory.

use super::*;

pub(super) struct Directory(pub(super) Arc<Fake>);

fn later<R, F>(incoming: Incoming, work: impl FnOnce(R, Connection) -> F)
where
    R: Request,
    F: Future<Output = Result<R::Response>> + Send + 'static,
{
    let request = incoming.decode::<R>().expect("decodes");
    let work = work(request, incoming.connection.clone());
    tokio::spawn(async move {
        let result = work.await;
        incoming.answer::<R>(result, Payload::default());
    });
}

fn not_kept(attr: FileAttr) -> Seen {
    let keep = Keep::Nothing;
    Seen { attr, keep }
}

fn changed(attr: Option<FileAttr>) -> Mutated {
    Mutated {
        attr,
        created: false,
        lease: None,
        dir: false,
        parents: [None, None],
        replaced: None,
        map_version: MapVersion(0),
    }
}

impl Service for Directory {
    fn serve(&self, incoming: Incoming) {
        let fake = self.0.clone();
        match incoming.method {
            OpenSession::METHOD => {
                later::<OpenSession, _>(
                    incoming,
                    |r, c| async move { Ok(fake.open_session(&r, c)) },
                )
            }
            Heartbeat::METHOD => {
                later::<Heartbeat, _>(incoming, |r, c| async move { fake.heartbeat(r, c).await })
            }
            EndSession::METHOD => later::<EndSession, _>(incoming, |r, _| async move {
                let mut state = lock(&fake.state);
                state.sessions.remove(&r.session);
                for holders in state.holders.values_mut() {
                    holders.remove(&r.session);
                }
                Ok(())
            }),
            GetMap::METHOD => {
                later::<GetMap, _>(
                    incoming,
                    |_, _| async move { Ok(lock(&fake.state).map.clone()) },
                )
            }
            AcquireLease::METHOD => {
                later::<AcquireLease, _>(incoming, |r, _| async move { fake.acquire(r).await })
            }
            PushAttr::METHOD => later::<PushAttr, _>(incoming, |r, _| async move { fake.push(r) }),
            OpenInode::METHOD => later::<OpenInode, _>(incoming, |r, _| async move {
                let attr = fake.attr(r.inode)?;
                Ok(InodeOpened { attr, lease: None })
            }),
            CloseInode::METHOD => later::<CloseInode, _>(incoming, |_, _| async move { Ok(()) }),
            SetLock::METHOD => {
                later::<SetLock, _>(incoming, |r, _| async move { fake.set_lock(&r).await })
            }
            CancelLock::METHOD => {
                later::<CancelLock, _>(incoming, |r, _| async move { Ok(fake.cancel(&r)) })
            }
            ReleaseOwner::METHOD => later::<ReleaseOwner, _>(incoming, |r, _| async move {
                fake.unlock(r.inode, r.stamp.session, r.owner);
                Ok(())
            }),
            Reclaim::METHOD => later::<Reclaim, _>(incoming, |r, c| async move {
                let reclaimed = fake.reclaim(r, c);
                while lock(&fake.state).hold_reclaims {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(reclaimed)
            }),
            Lookup::METHOD => later::<Lookup, _>(incoming, |r, _| async move {
                let name = r.name.expect("no one asks for ..");
                let (inode, names) = {
                    let state = lock(&fake.state);
                    (state.names.get(&name).copied(), state.grants_names)
                };
                let seen = match inode {
                    Some(inode) => Some(fake.true_attr(r.session, inode).await?),
                    None => None,
                };
                lock(&fake.state).lookups += 1;
                let seen = seen.map(not_kept);
                Ok(LookedUp { seen, names })
            }),
            GetAttr::METHOD => later::<GetAttr, _>(incoming, |r, _| async move {
                fake.true_attr(r.session, r.inode).await.map(not_kept)
            }),
            GetXattr::METHOD => later::<GetXattr, _>(incoming, |r, _| async move {
                let mut state = lock(&fake.state);
                state.xattr_questions += 1;
                let value = state.xattrs.get(&(r.inode, r.name)).cloned();
                Ok(value.ok_or(ErrorCode::NoSuchAttribute)?)
            }),
            ListXattrs::METHOD => later::<ListXattrs, _>(incoming, |r, _| async move {
                let mut state = lock(&fake.state);
                state.xattr_questions += 1;
                let names = state.xattrs.keys().filter(|(inode, _)| *inode == r.inode);
                Ok(names.map(|(_, name)| name.clone()).collect())
            }),
            GetStatFs::METHOD => later::<GetStatFs, _>(incoming, |_, _| async move {
                Ok(StatFs {
                    free_bytes: 1 << 30,
                    ..StatFs::default()
                })
            }),
            Mutate::METHOD => later::<Mutate, _>(incoming, |r, _| async move {
                if let Mutation::SetXattr { inode, .. } = &r.mutation {
                    fake.clear_the_way(*inode, r.stamp.session).await;
                }
                let result = fake.mutate(r);
                while lock(&fake.state).hold_changes {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                result
            }),
            _ => incoming.refuse_unknown(),
        }
    }
}

impl Fake {
    fn open_session(&self, request: &OpenSession, connection: Connection) -> SessionOpened {
        let mut state = lock(&self.state);
        state.next += 1;
        let fresh = SessionId(state.next);
        let session = *state.runs.entry(request.incarnation).or_insert(fresh);
        state.sessions.insert(session, Some(connection));
        SessionOpened {
            session,
            map: state.map.clone(),
            clock_ns: 1_000_000_000,
            leader_life: state.life,
            members: Vec::new(),
        }
    }

    async fn heartbeat(&self, request: Heartbeat, connection: Connection) -> Result<HeartbeatAck> {
        while lock(&self.state).mute {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut state = lock(&self.state);
        state
            .unreachable
            .insert(request.session, request.unreachable);
        let bound = state.sessions.get_mut(&request.session);
        *bound.ok_or(ErrorCode::SessionEnded)? = Some(connection);
        Ok(HeartbeatAck {
            map_version: state.map.version,
            clock_ns: 1_000_000_000,
            leader_life: state.life,
            members: Vec::new(),
        })
    }

    fn attr(&self, inode: InodeId) -> Result<FileAttr> {
        let state = lock(&self.state);
        Ok(*state.inodes.get(&inode).ok_or(ErrorCode::Stale)?)
    }

    /// The size as somebody sees it who has no lease.
    pub(in crate::client::tests) async fn look(&self, inode: InodeId) -> u64 {
        let nobody = SessionId(0);
        let seen = self.true_attr(nobody, inode).await;
        seen.expect("attributes").size
    }

    /// Asks the exclusive holder elsewhere.
    async fn true_attr(&self, session: SessionId, inode: InodeId) -> Result<FileAttr> {
        let holder = {
            let state = lock(&self.state);
            let holders = state.holders.get(&inode).into_iter().flatten();
            holders
                .filter(|(s, (_, kind))| **s != session && *kind == LeaseKind::Exclusive)
                .find_map(|(s, (grant, _))| Some((state.sessions[s].clone()?, *grant)))
        };
        if let Some((connection, grant)) = holder {
            let ask = AskAttr { inode, grant };
            let (told, _) = connection
                .call(&ask, Payload::default(), SECOND * 5)
                .await?;
            let mut state = lock(&self.state);
            let attr = state.inodes.get_mut(&inode).ok_or(ErrorCode::Stale)?;
            // By the rule of the namespace: what was told before a cut says nothing.
            if let Some(told) = told.filter(|told| told.generation >= attr.generation) {
                attr.size = attr.size.max(told.size);
            }
        }
        self.attr(inode)
    }

    async fn acquire(&self, request: AcquireLease) -> Result<LeaseGrant> {
        let AcquireLease {
            session,
            inode,
            kind,
        } = request;
        loop {
            let victim = {
                let mut state = lock(&self.state);
                if !state.sessions.contains_key(&session) {
                    return Err(ErrorCode::SessionEnded.into());
                }
                let attr = *state.inodes.get(&inode).ok_or(ErrorCode::Stale)?;
                state.next += 1;
                let fresh = GrantId(state.next);
                let map_version = state.map.version;
                let holders = state.holders.entry(inode).or_default();
                let conflict = holders.iter().find(|(s, (_, held))| {
                    **s != session
                        && (kind == LeaseKind::Exclusive || *held == LeaseKind::Exclusive)
                });
                match conflict {
                    None => {
                        let mine = holders.entry(session).or_insert((fresh, kind));
                        if mine.1 < kind {
                            *mine = (fresh, kind);
                        }
                        let (grant, kind) = *mine;
                        return Ok(LeaseGrant {
                            grant,
                            kind,
                            attr,
                            map_version,
                            contended: false,
                        });
                    }
                    Some((s, (grant, _))) => (*s, *grant),
                }
            };
            self.recall(inode, victim.0, victim.1).await;
        }
    }

    /// Takes the leases of other sessions away.
    async fn clear_the_way(&self, inode: InodeId, session: SessionId) {
        loop {
            let victim = {
                let state = lock(&self.state);
                let holders = state.holders.get(&inode).into_iter().flatten();
                let mut others = holders.filter(|(s, _)| **s != session);
                others.next().map(|(s, (grant, _))| (*s, *grant))
            };
            let Some((session, grant)) = victim else {
                return;
            };
            self.recall(inode, session, grant).await;
        }
    }

    async fn recall(&self, inode: InodeId, session: SessionId, grant: GrantId) {
        let connection = lock(&self.state).sessions.get(&session).cloned().flatten();
        let Some(connection) = connection else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            return;
        };
        let recall = Recall {
            inode,
            grant,
            keep: None,
        };
        let answer = connection
            .call(&recall, Payload::default(), SECOND * 5)
            .await;
        if let Ok((RecallAnswer::Returned { .. }, _)) = answer {
            let mut state = lock(&self.state);
            state.recalls += 1;
            let holders = state.holders.entry(inode).or_default();
            if holders
                .get(&session)
                .is_some_and(|(held, _)| *held == grant)
            {
                holders.remove(&session);
            }
        }
    }

    fn push(&self, request: PushAttr) -> Result<FileAttr> {
        let mut state = lock(&self.state);
        let held = state.holders.get(&request.inode);
        let held = held.and_then(|h| h.get(&request.stamp.session));
        if held != Some(&(request.grant, LeaseKind::Exclusive)) {
            return Err(ErrorCode::StaleGrant.into());
        }
        let SizeTimes {
            size,
            sparse,
            modified,
            ..
        } = request.push;
        let attr = state
            .inodes
            .get_mut(&request.inode)
            .ok_or(ErrorCode::Stale)?;
        attr.size = size;
        attr.sparse |= sparse;
        attr.modified = modified.unwrap_or(attr.modified);
        let attr = *attr;
        state.pushes += 1;
        Ok(attr)
    }

    async fn set_lock(&self, request: &SetLock) -> Result<LockAnswer> {
        let session = request.stamp.session;
        if request.kind.is_none() {
            self.unlock(request.inode, session, request.owner);
            return Ok(LockAnswer::Done);
        }
        assert_eq!(
            request.kind,
            Some(LockKind::Exclusive),
            "the fake knows no other"
        );
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if lock(&self.state).unclaimed.is_empty() {
                break;
            }
            changed.await;
        }
        let life = {
            let mut state = lock(&self.state);
            state.lock_requests += 1;
            state.life
        };
        while lock(&self.state).hold_locks {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut state = lock(&self.state);
        if state.life != life {
            return Err(ErrorCode::NotLeader.into());
        }
        let me = (session, request.owner);
        let holder = *state.locks.entry(request.inode).or_insert(me);
        if holder == me {
            return Ok(LockAnswer::Done);
        }
        if !request.wait {
            return Err(ErrorCode::WouldBlock.into());
        }
        let waiters = state.waiters.entry(request.inode).or_default();
        waiters.push_back((session, request.owner, request.stamp.sequence));
        drop(state);
        self.changed.notify_waiters();
        Ok(LockAnswer::Queued)
    }

    /// Tells every mount that a name of the root dir has changed.
    pub(in super::super) async fn tell_names(&self, text: &str, keep: bool) {
        let connections: Vec<Connection> = {
            let state = lock(&self.state);
            state.sessions.values().flatten().cloned().collect()
        };
        let name = FileName::new(text.as_bytes()).expect("a name");
        let news = NamesChanged {
            changes: vec![DirChange {
                dir: ROOT,
                names: vec![name],
                keep,
            }],
        };
        for connection in connections {
            let told = connection.call(&news, Payload::default(), SECOND * 5);
            told.await.expect("acknowledged");
        }
    }

    /// Waits until so many wait for a lock.
    pub(in super::super) async fn queued(&self, inode: InodeId, count: usize) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if lock(&self.state)
                .waiters
                .get(&inode)
                .map_or(0, VecDeque::len)
                == count
            {
                return;
            }
            changed.await;
        }
    }

    fn cancel(&self, request: &CancelLock) -> CancelAnswer {
        let mut state = lock(&self.state);
        let waiters = state.waiters.entry(request.inode).or_default();
        let before = waiters.len();
        waiters.retain(|(s, _, wait)| (*s, *wait) != (request.session, request.wait));
        let cancelled = waiters.len() < before;
        let holder = state.locks.get(&request.inode);
        let held = holder.is_some_and(|(session, _)| *session == request.session);
        drop(state);
        self.changed.notify_waiters();
        match cancelled || !held {
            true => CancelAnswer::Cancelled,
            false => CancelAnswer::TooLate,
        }
    }

    fn unlock(&self, inode: InodeId, session: SessionId, owner: LockOwner) {
        let mut state = lock(&self.state);
        if state.locks.get(&inode) != Some(&(session, owner)) {
            return;
        }
        state.locks.remove(&inode);
        let next = state.waiters.entry(inode).or_default().pop_front();
        if let Some((session, owner, wait)) = next {
            state.locks.insert(inode, (session, owner));
            let connection = state.sessions[&session].clone().expect("connected");
            tokio::spawn(async move {
                let granted = LockGranted { inode, wait };
                let told = connection.call(&granted, Payload::default(), SECOND);
                told.await.expect("acknowledged");
            });
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn reclaim(&self, request: Reclaim, connection: Connection) -> Reclaimed {
        let mut state = lock(&self.state);
        state.sessions.insert(request.session, Some(connection));
        let mut leases = Vec::new();
        for inode in &request.leases {
            state.next += 1;
            let grant = GrantId(state.next);
            let held = (grant, LeaseKind::Exclusive);
            state
                .holders
                .entry(*inode)
                .or_default()
                .insert(request.session, held);
            leases.push(Some(LeaseGrant {
                grant,
                kind: LeaseKind::Exclusive,
                attr: state.inodes[inode],
                map_version: state.map.version,
                contended: false,
            }));
        }
        for (inode, held) in &request.locks {
            state
                .locks
                .insert(*inode, (held.holder.session, held.holder.owner));
        }
        state.unclaimed.remove(&request.session);
        state.reclaimed.push(request);
        drop(state);
        self.changed.notify_waiters();
        Reclaimed { leases }
    }

    fn mutate(&self, request: Mutate) -> Result<Mutated> {
        let mut state = lock(&self.state);
        let stamp = request.stamp;
        let key = (stamp.session, stamp.sequence);
        if let Some(done) = state.answers.get(&key) {
            return Ok(*done);
        }
        if !state.sessions.contains_key(&stamp.session) {
            return Err(ErrorCode::SessionEnded.into());
        }
        state.mutations += 1;
        let mutated = match request.mutation {
            Mutation::Create { name, mode, .. } => {
                state.next += 1;
                let attr = new_file(InodeId(state.next), mode);
                state.names.insert(name, attr.inode);
                state.inodes.insert(attr.inode, attr);
                state.next += 1;
                let grant = GrantId(state.next);
                let held = (grant, LeaseKind::Exclusive);
                state
                    .holders
                    .entry(attr.inode)
                    .or_default()
                    .insert(stamp.session, held);
                Mutated {
                    attr: Some(attr),
                    created: true,
                    lease: Some(LeaseGrant {
                        grant,
                        kind: LeaseKind::Exclusive,
                        attr,
                        map_version: state.map.version,
                        contended: false,
                    }),
                    ..changed(Some(attr))
                }
            }
            Mutation::SetSize { inode, size, .. } => {
                let attr = state.inodes.get_mut(&inode).ok_or(ErrorCode::Stale)?;
                let shrinks = size < attr.size;
                attr.sparse |= grows_hole(attr.size, size);
                attr.size = size;
                if shrinks {
                    attr.generation = attr.generation.next();
                }
                let attr = *attr;
                if shrinks {
                    state.cut(&attr);
                }
                Mutated {
                    map_version: state.map.version,
                    ..changed(Some(attr))
                }
            }
            Mutation::Punch { inode, from, to } => {
                let attr = state.inodes.get_mut(&inode).ok_or(ErrorCode::Stale)?;
                attr.generation = attr.generation.next();
                attr.sparse = true;
                let attr = *attr;
                state.punch(&attr, from..to);
                Mutated {
                    map_version: state.map.version,
                    ..changed(Some(attr))
                }
            }
            Mutation::SetAttr { inode, set } => {
                let attr = state.inodes.get_mut(&inode).ok_or(ErrorCode::Stale)?;
                attr.mode = set.mode.unwrap_or(attr.mode);
                changed(Some(*attr))
            }
            Mutation::SetXattr {
                inode, name, value, ..
            } => {
                state.xattrs.insert((inode, name), value);
                changed(Some(state.count_xattrs(inode)?))
            }
            Mutation::RemoveXattr { inode, name } => {
                let removed = state.xattrs.remove(&(inode, name));
                removed.ok_or(ErrorCode::NoSuchAttribute)?;
                changed(Some(state.count_xattrs(inode)?))
            }
            other => panic!("the fake knows no {other:?}"),
        };
        state.answers.insert(key, mutated);
        Ok(mutated)
    }
}

impl State {
    fn count_xattrs(&mut self, inode: InodeId) -> Result<FileAttr> {
        let names = self.xattrs.keys().filter(|(at, _)| *at == inode);
        let kinds = names.map(|(_, name)| name.kind());
        let kinds = kinds.fold(XattrKinds::NONE, XattrKinds::with);
        let attr = self.inodes.get_mut(&inode).ok_or(ErrorCode::Stale)?;
        attr.xattrs = kinds;
        Ok(*attr)
    }

    fn cut(&mut self, attr: &FileAttr) {
        for (key, chunk) in &mut self.chunks {
            if key.inode == attr.inode {
                let start = key.index.0 * u64::from(CHUNK_BYTES);
                let kept = attr.size.saturating_sub(start) as usize;
                chunk.bytes.truncate(kept);
                if kept == 0 {
                    chunk.version = Version::HOLE;
                }
                chunk.generation = attr.generation;
            }
        }
    }
}

impl State {
    fn punch(&mut self, attr: &FileAttr, range: std::ops::Range<u64>) {
        for (key, chunk) in &mut self.chunks {
            let start = key.index.0 * u64::from(CHUNK_BYTES);
            let end = start + u64::from(CHUNK_BYTES);
            if key.inode != attr.inode || end <= range.start || range.end <= start {
                continue;
            }
            if range.start <= start && end <= range.end {
                chunk.bytes.clear();
                chunk.version = Version::HOLE;
            }
            for (at, byte) in chunk.bytes.iter_mut().enumerate() {
                if range.contains(&(start + at as u64)) {
                    *byte = 0;
                }
            }
            chunk.generation = attr.generation;
        }
    }
}

fn new_file(inode: InodeId, mode: u16) -> FileAttr {
    FileAttr {
        inode,
        kind: FileKind::Regular,
        mode,
        links: 1,
        uid: 0,
        gid: 0,
        device: 0,
        size: 0,
        sparse: false,
        accessed: Timestamp::default(),
        modified: Timestamp::default(),
        changed: Timestamp::default(),
        generation: Generation(1),
        layout: FileLayout {
            chunk_bytes: CHUNK_BYTES,
            first_group: GroupId((inode.0 % 4) as u32),
            groups: 4,
        },
        xattrs: Default::default(),
    }
}
