//! Questions to exclusive holders for size and times, shared by everybody who looks at once.
//!
//! An answer counts only for those who asked before the question was *sent*: one who comes
//! later may know of a write that the answer does not count. So for each inode one question is
//! on its way, and all who come meanwhile share the next one.

use super::Token;
use dfs_proto::ids::InodeId;
use std::collections::BTreeMap;

#[derive(Default, Debug)]
struct Ask {
    /// Those whom the question on its way is for.
    asked: Vec<Token>,
    /// Those who came since.
    next: Vec<Token>,
}

/// Questions on their way.
#[derive(Default, Debug)]
pub struct Asks {
    inodes: BTreeMap<InodeId, Ask>,
}

impl Asks {
    /// Someone wants true attributes. `true`: send a question; else one will be sent later.
    pub fn want(&mut self, inode: InodeId, token: Token) -> bool {
        match self.inodes.get_mut(&inode) {
            Some(ask) => {
                ask.next.push(token);
                false
            }
            None => {
                self.inodes.insert(
                    inode,
                    Ask {
                        asked: vec![token],
                        next: Vec::new(),
                    },
                );
                true
            }
        }
    }

    /// Whether a question about this inode is on its way.
    pub fn is_asking(&self, inode: InodeId) -> bool {
        self.inodes.contains_key(&inode)
    }

    /// The question has been answered, or needs none any more: those who have their answer, and
    /// whether the next question has to be sent.
    pub fn answered(&mut self, inode: InodeId) -> (Vec<Token>, bool) {
        let Some(ask) = self.inodes.get_mut(&inode) else {
            return (Vec::new(), false);
        };
        let done = std::mem::take(&mut ask.asked);
        ask.asked = std::mem::take(&mut ask.next);
        let again = !ask.asked.is_empty();
        if !again {
            self.inodes.remove(&inode);
        }
        (done, again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_never_serves_one_who_came_after_the_question() {
        let mut asks = Asks::default();
        let f = InodeId(1);
        assert!(asks.want(f, Token(1)));
        assert!(!asks.want(f, Token(2)));
        assert!(!asks.want(f, Token(3)));
        assert_eq!(asks.answered(f), (vec![Token(1)], true));
        assert!(!asks.want(f, Token(4)));
        assert!(asks.is_asking(f) && !asks.is_asking(InodeId(2)));
        assert_eq!(asks.answered(f), (vec![Token(2), Token(3)], true));
        assert_eq!(asks.answered(f), (vec![Token(4)], false));
        assert!(asks.want(f, Token(5)));
    }
}
