//! Where the directory is: the addresses of its members, and which one to try next.
//!
//! Pure: whoever dials asks it for an address and tells it what came of that.

use crate::error::{Error, ErrorCode};
use crate::ids::MemberId;
use crate::msg::member::DirectoryMember;

/// The members of the directory as a client knows them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Whereabouts {
    /// As a person has given them: never forgotten, since they are all there is to try when
    /// everybody else is gone.
    given: Vec<String>,
    /// As the directory says.
    members: Vec<DirectoryMember>,
    /// All of them, each once.
    addresses: Vec<String>,
    next: usize,
    /// Who was silent last, and how many more turns it is passed over.
    silent: Option<(String, u32)>,
}

/// To ask a silent member costs a whole deadline, and the others go on naming it as the leader
/// until they have elected another one: it is passed over for so many turns, about as many as a
/// client takes while they elect. When the new leader is found that is over: the silent one may be
/// the next.
const PASSED_OVER: u32 = 20;

/// The same for one whose connection was lost while it led: it may be cut off, and to dial it
/// would cost a whole deadline, too. Less, since it may still lead.
const LEFT_ALONE: u32 = 10;

impl Whereabouts {
    /// `None` without an address.
    pub fn new(given: Vec<String>) -> Option<Self> {
        (!given.is_empty()).then(|| Self {
            addresses: given.clone(),
            given,
            members: Vec::new(),
            next: 0,
            silent: None,
        })
    }

    /// The `HOST:PORT` to try.
    pub fn present(&self) -> &str {
        &self.addresses[self.next]
    }

    /// All but the one to try.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        let present = self.next;
        let all = self.addresses.iter().enumerate();
        all.filter(move |(at, _)| *at != present)
            .map(|(_, address)| address.as_str())
    }

    /// How many there are: after so many failures everybody has been tried.
    pub fn count(&self) -> usize {
        self.addresses.len()
    }

    /// The present one does not answer: it is passed over for a while.
    pub fn note_silence(&mut self) {
        self.silent = Some((self.present().to_owned(), PASSED_OVER));
    }

    /// The present one leads.
    pub fn found(&mut self) {
        self.silent = None;
    }

    /// Goes on to another one when the link to the present one, which led, has failed.
    pub fn lost(&mut self, error: &Error) {
        if error.code == ErrorCode::Disconnected {
            self.silent = Some((self.present().to_owned(), LEFT_ALONE));
        }
        self.turn(error);
    }

    /// Goes on to another one after a failure: to the leader if the answer names it.
    pub fn turn(&mut self, error: &Error) {
        if error.code == ErrorCode::DeadlineExceeded {
            self.note_silence();
        }
        let passed_over = self.pass_over();
        let named = self.members.iter().find(|member| {
            error.code == ErrorCode::NotLeader && member.member == MemberId(error.detail)
        });
        let leader = named.and_then(|m| self.addresses.iter().position(|a| *a == m.address));
        let count = self.addresses.len();
        let after = |at: usize| (at + 1) % count;
        self.next = match leader.filter(|leader| Some(*leader) != passed_over) {
            Some(leader) if leader != self.next => leader,
            _ if Some(after(self.next)) == passed_over => after(after(self.next)),
            _ => after(self.next),
        };
    }

    /// Who is not to be tried in this turn.
    fn pass_over(&mut self) -> Option<usize> {
        let (address, turns) = self.silent.as_mut()?;
        let known = self.addresses.iter().position(|a| a == address);
        if known.is_none() || *turns == 0 {
            self.silent = None;
            return None;
        }
        *turns -= 1;
        // There must be somebody else.
        known.filter(|_| self.addresses.len() > 1)
    }

    /// Takes over whom the directory names as its members.
    pub fn learn(&mut self, members: &[DirectoryMember]) {
        if members.is_empty() || self.members == members {
            return;
        }
        let present = self.present().to_owned();
        self.members = members.to_vec();
        self.addresses.clone_from(&self.given);
        for member in members {
            if !self.addresses.contains(&member.address) {
                self.addresses.push(member.address.clone());
            }
        }
        let same = self.addresses.iter().position(|a| *a == present);
        self.next = same.unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, address: &str) -> DirectoryMember {
        DirectoryMember {
            member: MemberId(id),
            address: address.to_owned(),
        }
    }

    fn known() -> Whereabouts {
        let mut known = Whereabouts::new(vec!["a:1".to_owned()]).expect("one is given");
        known.learn(&[member(4, "b:1"), member(7, "a:1"), member(9, "c:1")]);
        known
    }

    #[test]
    fn everybody_is_tried_in_turn() {
        let mut known = known();
        let mut tried = Vec::new();
        for _ in 0..known.count() {
            tried.push(known.present().to_owned());
            known.turn(&Error::bare(ErrorCode::Disconnected));
        }
        assert_eq!(tried, ["a:1", "b:1", "c:1"]);
        assert_eq!(known.present(), "a:1");
    }

    #[test]
    fn a_member_that_does_not_lead_names_who_does() {
        let mut known = known();
        known.turn(&Error::bare(ErrorCode::NotLeader).with_detail(9));
        assert_eq!(known.present(), "c:1");
        // One that names itself, or nobody, does not know.
        known.turn(&Error::bare(ErrorCode::NotLeader).with_detail(9));
        assert_eq!(known.present(), "a:1");
        known.turn(&Error::bare(ErrorCode::NotLeader).with_detail(0));
        assert_eq!(known.present(), "b:1");
    }

    #[test]
    fn a_silent_member_is_passed_over_for_a_while_also_if_the_others_name_it() {
        let mut known = known();
        known.turn(&Error::bare(ErrorCode::DeadlineExceeded));
        let mut tried = Vec::new();
        for _ in 1..PASSED_OVER {
            tried.push(known.present().to_owned());
            known.turn(&Error::bare(ErrorCode::NotLeader).with_detail(7));
        }
        assert!(tried.iter().all(|address| address != "a:1"), "{tried:?}");
        assert!(tried.iter().any(|a| a == "b:1") && tried.iter().any(|a| a == "c:1"));
        known.turn(&Error::bare(ErrorCode::NotLeader).with_detail(7));
        assert_eq!(known.present(), "a:1");
    }

    #[test]
    fn one_that_was_left_for_a_new_leader_is_passed_over_too() {
        let mut known = known();
        known.note_silence();
        known.turn(&Error::bare(ErrorCode::NotLeader).with_detail(9));
        assert_eq!(known.present(), "c:1");
        // The new one is not ready, and the old one would come next.
        known.turn(&Error::bare(ErrorCode::NotLeader).with_detail(9));
        assert_eq!(known.present(), "b:1");
    }

    #[test]
    fn one_that_was_silent_long_ago_is_gone_to_when_it_leads() {
        let mut known = known();
        known.turn(&Error::bare(ErrorCode::DeadlineExceeded));
        assert_eq!(known.present(), "b:1");
        known.found();
        // Now the second one is gone, and the first one, which is back, was elected.
        known.lost(&Error::bare(ErrorCode::Disconnected));
        assert_eq!(known.present(), "c:1");
        known.turn(&Error::bare(ErrorCode::NotLeader).with_detail(7));
        assert_eq!(known.present(), "a:1");
    }

    #[test]
    fn one_whose_link_broke_is_left_alone_for_a_moment_also_if_the_others_name_it() {
        let mut known = known();
        known.lost(&Error::bare(ErrorCode::Disconnected));
        let mut turns = 0;
        while known.present() != "a:1" {
            turns += 1;
            known.turn(&Error::bare(ErrorCode::NotLeader).with_detail(7));
        }
        assert!(turns > 5 && turns < PASSED_OVER, "{turns}");
    }

    #[test]
    fn the_only_member_is_tried_although_it_was_silent() {
        let mut only = Whereabouts::new(vec!["a:1".to_owned()]).expect("one is given");
        only.turn(&Error::bare(ErrorCode::DeadlineExceeded));
        assert_eq!(only.present(), "a:1");
    }

    #[test]
    fn who_is_gone_is_forgotten_but_not_what_was_given() {
        let mut known = known();
        known.turn(&Error::bare(ErrorCode::Disconnected));
        known.learn(&[member(9, "c:1"), member(10, "d:1")]);
        assert_eq!(known.count(), 3);
        assert_eq!(known.present(), "a:1");
        known.learn(&[]);
        assert_eq!(known.count(), 3);
    }

    #[test]
    fn without_an_address_there_is_nothing_to_try() {
        assert_eq!(Whereabouts::new(Vec::new()), None);
    }
}
