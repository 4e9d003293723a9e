//! Patterns of names, as the command line writes them: `*` stands for any text.

/// What the stars of a pattern stand for in a name that it fits; the first star takes as much as it can.
pub fn matched<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let Some((first, rest)) = pattern.split_once('*') else { return (pattern == name).then(Vec::new) };
    let tail = name.strip_prefix(first)?;
    (0..=tail.len()).rev().filter(|i| tail.is_char_boundary(*i)).find_map(|i| {
        let mut found = matched(rest, &tail[i..])?;
        found.insert(0, &tail[..i]);
        Some(found)
    })
}
