//! The cheapest graph in an e-graph, where a shared value costs once.
//!
//! For each class the cheapest set of terms that computes it is kept, as a set of bits: greedy, bottom-up, and near to the best on
//! graphs like ours. (egg's own extractor counts a shared term at each use.)

use std::collections::BTreeMap;

use egg::{Id, Language};

use crate::facts::Terms;
use crate::term::Term;

/// A set of classes with what their chosen terms cost.
#[derive(Clone)]
struct Chosen {
    term: usize,
    bits: Vec<u64>,
    cost: f64,
}

/// The chosen term of each class that can be computed.
///
/// `cost` is that of a term by itself.
pub fn extract(terms: &Terms, cost: impl Fn(&Term, Id) -> f64) -> BTreeMap<Id, Term> {
    let ids: Vec<Id> = terms.classes().map(|c| c.id).collect();
    let position: BTreeMap<Id, usize> = ids.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let words = ids.len().div_ceil(64);
    let nodes: Vec<Vec<(Vec<usize>, f64)>> = ids
        .iter()
        .map(|id| {
            let of = |t: &Term| (t.children().iter().map(|c| position[&terms.find(*c)]).collect(), cost(t, *id));
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
    ids.iter().enumerate().filter_map(|(i, id)| Some((*id, terms[*id].nodes[best[i].as_ref()?.term].clone()))).collect()
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
