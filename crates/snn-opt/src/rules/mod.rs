//! The rules, a file for each topic.

pub mod algebra;
pub mod delays;
pub mod helpers;
pub mod linear;
pub mod movement;
pub mod neurons;

use crate::rule::{Find, Replace, Rule, Set};

/// The topics with their rules.
pub const TOPICS: [(&str, &[Rule]); 6] = [
    ("delays", &delays::RULES),
    ("helpers", &helpers::RULES),
    ("neurons", &neurons::RULES),
    ("algebra", &algebra::RULES),
    ("movement", &movement::RULES),
    ("linear layers", &linear::RULES),
];

/// All rules.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    TOPICS.iter().flat_map(|(_, rules)| rules.iter())
}

/// A rule from one pattern to another.
pub(crate) const fn exact(name: &'static str, find: &'static str, replace: &'static str, why: &'static str) -> Rule {
    Rule { name, set: Set::Exact, why, find: Find::Pattern(find), replace: Replace::Pattern(replace) }
}

/// A rule from a pattern to what a function builds.
pub(crate) const fn built(
    name: &'static str,
    find: &'static str,
    build: fn(&mut crate::rule::Context<'_>) -> Option<egg::Id>,
    why: &'static str,
) -> Rule {
    Rule { name, set: Set::Exact, why, find: Find::Pattern(find), replace: Replace::Build(build) }
}

/// A rule from a pattern to another, under a condition.
pub(crate) const fn when(
    name: &'static str,
    find: &'static str,
    condition: fn(&crate::rule::Context<'_>) -> bool,
    replace: &'static str,
    why: &'static str,
) -> Rule {
    Rule { name, set: Set::Exact, why, find: Find::Pattern(find), replace: Replace::When(condition, replace) }
}

/// A rule about every term with one of these names.
pub(crate) const fn each(
    name: &'static str,
    names: &'static [&'static str],
    build: fn(&mut crate::rule::Context<'_>) -> Option<egg::Id>,
    why: &'static str,
) -> Rule {
    Rule { name, set: Set::Exact, why, find: Find::Each(names), replace: Replace::Build(build) }
}

/// The same rule in the fast set.
pub(crate) const fn fast(rule: Rule) -> Rule {
    Rule { set: Set::Fast, ..rule }
}

/// A rule about every elementwise operation.
pub(crate) const fn elementwise(
    name: &'static str,
    build: fn(&mut crate::rule::Context<'_>) -> Option<egg::Id>,
    why: &'static str,
) -> Rule {
    Rule { name, set: Set::Exact, why, find: Find::Elementwise, replace: Replace::Build(build) }
}
