//! The file servers of the cluster in memory.

use super::*;
use std::cmp::Ordering;

/// All servers look at the same chunks: replication is not the client's business.
pub(super) struct Server(pub(super) ServerId, pub(super) Arc<Fake>);

impl Service for Server {
    fn serve(&self, mut incoming: Incoming) {
        let payload = incoming.take_payload();
        match incoming.method {
            BindSession::METHOD => incoming.answer::<BindSession>(Ok(()), Payload::default()),
            ReadChunk::METHOD => {
                let read = incoming.decode::<ReadChunk>().and_then(|r| self.read(&r));
                let (result, payload) = match read {
                    Ok((read, payload)) => (Ok(read), payload),
                    Err(error) => (Err(error), Payload::default()),
                };
                incoming.answer::<ReadChunk>(result, payload);
            }
            WriteChunk::METHOD => {
                let request = incoming.decode::<WriteChunk>();
                let result = request.and_then(|r| self.write(&r, &payload));
                if std::mem::take(&mut lock(&self.1.state).lose_next_answer) {
                    incoming.connection.close("the answer is lost");
                }
                incoming.answer::<WriteChunk>(result, Payload::default());
            }
            SyncChunks::METHOD => {
                let result = incoming.decode::<SyncChunks>().and_then(|r| self.sync(r));
                incoming.answer::<SyncChunks>(result, Payload::default());
            }
            FindChunks::METHOD => {
                let found = incoming.decode::<FindChunks>().and_then(|r| self.find(&r));
                incoming.answer::<FindChunks>(found, Payload::default());
            }
            MeasureStored::METHOD => {
                let request = incoming.decode::<MeasureStored>();
                let measured = request.and_then(|r| self.measure(&r));
                incoming.answer::<MeasureStored>(measured, Payload::default());
            }
            _ => incoming.refuse_unknown(),
        }
    }
}

impl Server {
    fn check(&self, state: &State, group: GroupId, epoch: Epoch) -> Result<()> {
        let entry = state.map.group(group).ok_or(ErrorCode::Internal)?;
        if epoch != entry.epoch {
            return Err(Error::bare(ErrorCode::WrongEpoch).with_detail(entry.epoch.0));
        }
        if !entry.in_sync.contains(&self.0) {
            return Err(ErrorCode::WrongRole.into());
        }
        Ok(())
    }

    /// Chunks that a group has of an inode, with the bytes that they store: whole blocks from the
    /// start on, as far as anybody has written.
    fn stored(&self, state: &State, inode: InodeId, group: GroupId) -> Vec<(ChunkIndex, u32)> {
        let there = state.chunks.iter().filter(|(key, chunk)| {
            let of = state.inodes[&key.inode].layout.group_of(key.index);
            (key.inode, of) == (inode, group) && chunk.version != Version::HOLE
        });
        let bytes = |chunk: &Chunk| chunk.bytes.len().next_multiple_of(4096) as u32;
        there
            .map(|(key, chunk)| (key.index, bytes(chunk)))
            .collect()
    }

    fn find(&self, request: &FindChunks) -> Result<FoundChunks> {
        let state = lock(&self.1.state);
        self.check(&state, request.group, request.epoch)?;
        let mut answer = FoundChunks {
            whole: Vec::new(),
            found: None,
            end: true,
        };
        for (index, stored) in self.stored(&state, request.inode, request.group) {
            let from = match index.cmp(&request.from) {
                Ordering::Less => continue,
                Ordering::Equal => request.offset,
                Ordering::Greater => 0,
            };
            let at = match request.seek {
                Seek::Data => (from < stored).then_some(from),
                Seek::Hole => (stored < request.chunk_bytes).then_some(from.max(stored)),
            };
            match at {
                Some(at) => {
                    answer.found = Some((index, at));
                    break;
                }
                None if request.seek == Seek::Hole => answer.whole.push(index),
                None => {}
            }
        }
        Ok(answer)
    }

    fn measure(&self, request: &MeasureStored) -> Result<StoredMeasured> {
        let mut state = lock(&self.1.state);
        self.check(&state, request.group, request.epoch)?;
        state.measured += 1;
        let stored = self.stored(&state, request.inode, request.group);
        let bytes = stored.into_iter().map(|(_, bytes)| u64::from(bytes)).sum();
        Ok(StoredMeasured { bytes })
    }

    fn read(&self, request: &ReadChunk) -> Result<(ChunkRead, Payload)> {
        let state = lock(&self.1.state);
        self.check(&state, request.group, request.epoch)?;
        if state.rotten.contains(&self.0) {
            return Err(ErrorCode::Rotten.into());
        }
        let bytes = match state.chunks.get(&request.key) {
            Some(chunk) if chunk.generation > request.generation => {
                let error = Error::bare(ErrorCode::StaleGeneration);
                return Err(error.with_detail(chunk.generation.0));
            }
            Some(chunk) => {
                let from = (request.offset as usize).min(chunk.bytes.len());
                let to = (from + request.len as usize).min(chunk.bytes.len());
                Payload::copy_from(&chunk.bytes[from..to])
            }
            None => Payload::default(),
        };
        let checksums = block_checksums(request.offset, &bytes);
        Ok((ChunkRead { checksums }, bytes))
    }

    fn write(&self, request: &WriteChunk, bytes: &[u8]) -> Result<ChunkWritten> {
        let mut state = lock(&self.1.state);
        self.check(&state, request.group, request.epoch)?;
        let entry = state.map.group(request.group).ok_or(ErrorCode::Internal)?;
        if entry.primary != Some(self.0) {
            return Err(ErrorCode::WrongRole.into());
        }
        assert!(bytes.len() <= IO_BYTES_MAX, "a request is never larger");
        assert!(verify_checksums(request.offset, bytes, &request.checksums));
        if !state.sessions.contains_key(&request.session) {
            return Err(ErrorCode::Fenced.into());
        }
        state.next += 1;
        let fresh = Version {
            epoch: request.epoch,
            counter: state.next,
        };
        let chunk = state.chunks.entry(request.key).or_default();
        let record = chunk.records.get(&request.session).copied();
        let answer = |version| ChunkWritten {
            version,
            epoch: request.epoch,
        };
        match record {
            Some((last, version)) if last == request.sequence => return Ok(answer(version)),
            Some((last, _)) if last > request.sequence => {
                return Err(ErrorCode::WriteForgotten.into());
            }
            _ => {}
        }
        let end = request.offset as usize + bytes.len();
        if chunk.bytes.len() < end {
            chunk.bytes.resize(end, 0);
        }
        chunk.bytes[request.offset as usize..end].copy_from_slice(bytes);
        chunk.generation = request.generation;
        chunk.version = fresh;
        chunk
            .records
            .insert(request.session, (request.sequence, fresh));
        state.writes += 1;
        Ok(answer(fresh))
    }

    fn sync(&self, request: SyncChunks) -> Result<()> {
        let mut state = lock(&self.1.state);
        self.check(&state, request.group, request.epoch)?;
        for (index, version) in &request.chunks {
            let key = ChunkKey {
                inode: request.inode,
                index: *index,
            };
            let held = state.chunks.get(&key).map_or(Version::HOLE, |c| c.version);
            if held < *version {
                return Err(ErrorCode::WriteLost.into());
            }
        }
        state.synced.push((self.0, request.chunks));
        Ok(())
    }
}
