//! The cheapest graph in an e-graph, where a shared value costs once.
//!
//! For each class the cheapest set of terms that computes it is kept, as a set of bits: greedy, bottom-up, and near to the best on
//! graphs like ours. (egg's own extractor counts a shared term at each use.)

use std::collections::BTreeMap;

use egg::{Id, Language};

use crate::enode::ENode;
use crate::facts::Terms;

/// A set of classes with what their chosen terms cost.
#[derive(Clone)]
struct Chosen {
    term: usize,
    bits: Vec<u64>,
    cost: f64,
}

/// The chosen term of each class that can be computed, for the sake of some roots.
///
/// `cost` is that of a term by itself.
pub fn extract(terms: &Terms, roots: &[Id], cost: impl Fn(&ENode, Id) -> f64) -> BTreeMap<Id, ENode> {
    let ids: Vec<Id> = terms.classes().map(|c| c.id).collect();
    let position: BTreeMap<Id, usize> = ids.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let words = ids.len().div_ceil(64);
    let nodes: Vec<Vec<(Vec<usize>, f64)>> = ids
        .iter()
        .map(|id| {
            let of = |t: &ENode| (t.children().iter().map(|c| position[&terms.find(*c)]).collect(), cost(t, *id));
            terms[*id].nodes.iter().map(of).collect()
        })
        .collect();
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); ids.len()];
    for (class, list) in nodes.iter().enumerate() {
        for child in list.iter().flat_map(|(children, _)| children) {
            users[*child].push(class);
        }
    }
    let mut best: Vec<Option<Chosen>> = vec![None; ids.len()];
    // What each chosen set adds for its own class.
    let mut own = vec![0.0; ids.len()];
    let mut queue: std::collections::VecDeque<usize> = (0..ids.len()).collect();
    let mut queued = vec![true; ids.len()];
    let mut left = 40 * ids.len() + 1000;
    while let Some(class) = queue.pop_front() {
        queued[class] = false;
        left -= 1;
        if left == 0 {
            break;
        }
        let mut improved = false;
        for (i, (children, price)) in nodes[class].iter().enumerate() {
            let Some(found) = combine(class, i, children, *price, &best, &own, words) else { continue };
            if best[class].as_ref().is_none_or(|b| found.cost < b.cost - 1e-9) {
                best[class] = Some(found);
                own[class] = *price;
                improved = true;
            }
        }
        if improved {
            for user in &users[class] {
                if !std::mem::replace(&mut queued[*user], true) {
                    queue.push_back(*user);
                }
            }
        }
    }
    let mut choice: Vec<Option<usize>> = best.iter().map(|b| b.as_ref().map(|c| c.term)).collect();
    let roots: Vec<usize> = roots.iter().map(|r| position[&terms.find(*r)]).collect();
    improve(&nodes, &roots, &mut choice);
    ids.iter().enumerate().filter_map(|(i, id)| Some((*id, terms[*id].nodes[choice[i]?].clone()))).collect()
}

/// Steps over classes that looking for better choices may take.
const MOST_STEPS: usize = 1 << 21;

/// Each class was chosen for by itself. Where another term shares more with what the roots need anyway, it is taken: one class at a
/// time, while the whole becomes cheaper.
fn improve(nodes: &[Vec<(Vec<usize>, f64)>], roots: &[usize], choice: &mut [Option<usize>]) {
    let mut steps = 0;
    let Some((mut cost, mut order)) = whole(nodes, roots, choice) else { return };
    loop {
        let mut improved = false;
        for class in order.clone() {
            let before = choice[class];
            for term in (0..nodes[class].len()).filter(|t| Some(*t) != before) {
                steps += order.len();
                if steps > MOST_STEPS {
                    return;
                }
                let kept = choice[class];
                choice[class] = Some(term);
                match whole(nodes, roots, choice) {
                    Some((new, reached)) if new < cost - 1e-9 => {
                        (cost, order) = (new, reached);
                        improved = true;
                    }
                    _ => choice[class] = kept,
                }
            }
        }
        if !improved {
            return;
        }
    }
}

/// What all that the roots need costs, and which classes that are; `None` where a class would need itself.
fn whole(nodes: &[Vec<(Vec<usize>, f64)>], roots: &[usize], choice: &[Option<usize>]) -> Option<(f64, Vec<usize>)> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut state = vec![State::New; nodes.len()];
    let (mut cost, mut order) = (0.0, Vec::new());
    let mut stack: Vec<(usize, bool)> = roots.iter().map(|r| (*r, false)).collect();
    while let Some((class, leaving)) = stack.pop() {
        if leaving {
            state[class] = State::Done;
            order.push(class);
            continue;
        }
        match state[class] {
            State::Done => continue,
            State::Open => return None,
            State::New => {}
        }
        let (children, price) = &nodes[class][choice[class]?];
        cost += price;
        state[class] = State::Open;
        stack.push((class, true));
        // A child that is open is an ancestor; one that waits on the stack for another parent is new.
        stack.extend(children.iter().filter(|c| state[**c] != State::Done).map(|c| (*c, false)));
    }
    Some((cost, order))
}

/// A term with the best sets of its children; `None` where one is missing or needs the class itself.
fn combine(
    class: usize,
    term: usize,
    children: &[usize],
    price: f64,
    best: &[Option<Chosen>],
    own: &[f64],
    words: usize,
) -> Option<Chosen> {
    let mut sets: Vec<&Chosen> = Vec::with_capacity(children.len());
    for child in children {
        let set = best[*child].as_ref()?;
        if set.bits[class / 64] >> (class % 64) & 1 == 1 {
            return None;
        }
        sets.push(set);
    }
    // The largest first: only what the others add is counted.
    sets.sort_by(|a, b| b.cost.total_cmp(&a.cost));
    let (mut bits, mut cost) = sets.first().map_or_else(|| (vec![0; words], 0.0), |s| (s.bits.clone(), s.cost));
    for set in sets.iter().skip(1) {
        for (w, (mine, theirs)) in bits.iter_mut().zip(&set.bits).enumerate() {
            let mut new = theirs & !*mine;
            *mine |= theirs;
            while new != 0 {
                cost += own[w * 64 + new.trailing_zeros() as usize];
                new &= new - 1;
            }
        }
    }
    bits[class / 64] |= 1 << (class % 64);
    Some(Chosen { term, bits, cost: cost + price })
}
