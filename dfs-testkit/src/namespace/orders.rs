//! The orders in which the calls of a step may have been made, by what they answered.

use super::call::{Act, Call};
use super::model::Model;
use super::perform::Answer;
use rustix::io::Errno;

/// Orders of the calls of a step, each by its number in the step. A call that is in none of an order did
/// nothing, and its answer is no matter there: a path through links is looked at name by name, and
/// another call may come in between.
pub fn orders(before: &Model, step: &[Call], answers: &[Answer]) -> Vec<Vec<usize>> {
    let mut orders: Vec<Vec<usize>> = vec![(0..step.len()).collect()];
    if step.len() == 2 {
        orders.push(vec![1, 0]);
        for (lost, other) in [(0, 1), (1, 0)] {
            let missed = match step[other].act {
                // What is moved meanwhile may be missed at both its places, as on a local file system.
                Act::Rename(..) => matches!(
                    answers[lost],
                    Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)
                ),
                Act::Unlink(_) => {
                    answers[lost] == Err(Errno::NOENT) && is_circle(before, &step[lost])
                }
                _ => false,
            };
            if missed {
                orders.push(vec![other]);
            }
        }
    }
    orders
}

/// Whether a call opens, or would make, what a link names that leads through itself. It is looked
/// at more than once; when it is removed after the first time, then nothing is there at the second,
/// in the middle of a path, where no file can be made.
fn is_circle(before: &Model, call: &Call) -> bool {
    let Act::Open(_, _, how, _) = call.act else {
        return false;
    };
    how.create && !how.no_follow && before.clone().perform(call) == Err(Errno::LOOP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Call {
        line.parse().expect("a call")
    }

    /// The orders for two calls at once, after others, when the first one finds nothing.
    fn when_nothing_is_found(before: &[&str], step: [&str; 2]) -> Vec<Vec<usize>> {
        let mut model = Model::new(2, 0o755);
        for line in before {
            model.perform(&call(line)).expect("it can be made");
        }
        let answers = [Err(Errno::NOENT), Ok(String::new())];
        orders(&model, &step.map(call), &answers)
    }

    const EITHER: [&[usize]; 2] = [&[0, 1], &[1, 0]];

    #[test]
    fn a_link_through_itself_may_be_gone_at_the_second_sight() {
        let circle = ["1 0 symlink b/c b"];
        let step = ["1 0 open 1 b wc 644", "0 0 unlink b"];
        let with_neither = [EITHER[0], EITHER[1], &[1]];
        assert_eq!(when_nothing_is_found(&circle, step), with_neither);
    }

    #[test]
    fn what_is_looked_at_once_is_there_or_not() {
        let unlink = "0 0 unlink b";
        let file = ["0 0 open 0 a wc 644", "1 0 symlink a b"];
        let created = ["1 0 open 1 b wc 644", unlink];
        assert_eq!(when_nothing_is_found(&file, created), EITHER);
        let circle = ["1 0 symlink b/c b"];
        let itself = ["1 0 open 1 b wcn 644", unlink];
        assert_eq!(when_nothing_is_found(&circle, itself), EITHER);
    }

    #[test]
    fn what_is_moved_may_be_missed() {
        let dir = ["0 0 mkdir a 755", "0 0 symlink a b"];
        let step = ["1 0 list b", "0 0 rename a c over"];
        let with_neither = [EITHER[0], EITHER[1], &[1]];
        assert_eq!(when_nothing_is_found(&dir, step), with_neither);
    }
}
