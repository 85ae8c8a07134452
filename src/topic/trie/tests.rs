//! The trie as a specification, and against a plain list.

use proptest::prelude::*;

use super::*;
use crate::limits::SCRATCH_RETAINED_STATES;
use crate::topic::Topic;

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).unwrap()
}

fn trie_of<'a>(patterns: &[&'a str]) -> Trie<&'a str> {
    let mut trie = Trie::new();
    for text in patterns {
        trie.insert(&pattern(text), *text).unwrap();
    }
    trie
}

fn found<'a>(trie: &Trie<&'a str>, published: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    trie.visit(published, &mut Scratch::new(), |text| found.push(*text));
    found.sort_unstable();
    found
}

fn sorted<'a>(texts: &[&'a str]) -> Vec<&'a str> {
    let mut texts = texts.to_vec();
    texts.sort_unstable();
    texts
}

fn assert_bare<V>(trie: &Trie<V>) {
    assert!(trie.is_empty());
    assert_eq!(trie.node_count(), 0);
    assert_eq!(trie.symbols.len(), 0);
    assert_eq!(trie.nodes.edge_count(), 0);
    assert!(trie.nodes.at(Nodes::COMMON_ROOT).is_unused());
    assert!(trie.nodes.at(Nodes::RESERVED_ROOT).is_unused());
}

#[test]
fn a_topic_finds_the_patterns_that_match_it() {
    let trie = trie_of(&["", "a", "a/b", "a/*", "*/b", "a/**", "**", "**/b", "a/**/*", "b"]);
    assert_eq!(found(&trie, "a/b"), sorted(&["**", "**/b", "*/b", "a/**", "a/**/*", "a/*", "a/b"]));
    assert_eq!(found(&trie, ""), sorted(&["", "**"]));
    assert_eq!(found(&trie, "a"), sorted(&["**", "a", "a/**"]));
    assert_eq!(found(&trie, "unheard/of"), sorted(&["**"]));
}

#[test]
fn a_pattern_finds_the_topics_it_matches() {
    let trie = trie_of(&["", "a", "a/b", "a/c", "b/c", "a/b/c", "$a", "$a/b"]);
    assert_eq!(found(&trie, "a/*"), sorted(&["a/b", "a/c"]));
    assert_eq!(found(&trie, "a/**"), sorted(&["a", "a/b", "a/b/c", "a/c"]));
    assert_eq!(found(&trie, "**/c"), sorted(&["a/b/c", "a/c", "b/c"]));
    assert_eq!(found(&trie, "**"), sorted(&["", "a", "a/b", "a/b/c", "a/c", "b/c"]));
    assert_eq!(found(&trie, "$a/**"), sorted(&["$a", "$a/b"]));
}

#[test]
fn wildcards_meet_wildcards() {
    let trie = trie_of(&["a/*", "*/b", "**/c", "a/**", "b/**/c", "*", "**"]);
    assert_eq!(found(&trie, "a/*"), sorted(&["**", "**/c", "*/b", "a/**", "a/*"]));
    assert_eq!(found(&trie, "**/c"), sorted(&["**", "**/c", "*", "a/**", "a/*", "b/**/c"]));
}

#[test]
fn neighbouring_wildcards_match_the_literal_topics_they_should() {
    for text in ["a/**/*", "a/**/**", "**/*", "**/**", "*/**", "a/*/**"] {
        let trie = trie_of(&[text]);
        for topic in ["a", "a/b", "a/b/c", "b", ""] {
            let matches = pattern(text).matches(&Topic::new(topic).unwrap());
            assert_eq!(found(&trie, topic).len(), usize::from(matches), "{text} and {topic:?}");
        }
    }
}

#[test]
fn reserved_topics_are_found_only_by_their_own_first_fragment() {
    let trie = trie_of(&["**", "*", "*/x", "**/$a", "$a", "$a/**", "$b/**", "x/$a"]);
    assert_eq!(found(&trie, "$a"), sorted(&["$a", "$a/**"]));
    assert_eq!(found(&trie, "$a/x"), sorted(&["$a/**"]));
    assert_eq!(found(&trie, "x/$a"), sorted(&["**", "**/$a", "x/$a"]));
    assert_eq!(found(&trie, "**/$a"), sorted(&["**", "**/$a", "x/$a"]));
    assert_eq!(found(&trie, "**"), sorted(&["**", "**/$a", "*", "*/x", "x/$a"]));
}

#[test]
fn an_entry_is_reported_once_however_many_ways_lead_to_it() {
    let trie = trie_of(&["**/a/**/a/**", "**/a/**", "**/a/*/**/a"]);
    let topic = ["a"; 20].join("/");
    assert_eq!(found(&trie, &topic).len(), 3);
    assert_eq!(found(&trie, "**/a/**/a/**").len(), 3);
    assert_eq!(found(&trie, "a/**/a/**").len(), 3);
    assert_eq!(found(&trie, "**").len(), 3);
}

#[test]
fn entries_of_a_pattern_come_in_the_order_of_their_insertion() {
    let mut trie = Trie::new();
    let ids: Vec<EntryId> = (0..6).map(|value| trie.insert(&pattern("a/*"), value).unwrap()).collect();
    let order = |trie: &Trie<i32>| {
        let mut found = Vec::new();
        trie.visit("a/b", &mut Scratch::new(), |value| found.push(*value));
        found
    };
    for (removed, left) in [(0, &[1, 2, 3, 4, 5][..]), (5, &[1, 2, 3, 4]), (2, &[1, 3, 4])] {
        assert_eq!(trie.remove(ids[removed]), Some(i32::try_from(removed).unwrap()));
        assert_eq!(order(&trie), left);
    }
    trie.insert(&pattern("a/*"), 6).unwrap();
    assert_eq!(order(&trie), [1, 3, 4, 6]);
}

#[test]
fn an_id_names_its_entry_until_that_is_removed_and_nothing_afterwards() {
    let mut trie = Trie::new();
    let first = trie.insert(&pattern("a"), 1).unwrap();
    assert_eq!(trie.value(first), Some(&1));
    assert_eq!(trie.remove(first), Some(1));
    let second = trie.insert(&pattern("a"), 2).unwrap();
    assert_ne!(first, second);
    assert_eq!(trie.value(first), None);
    assert_eq!(trie.remove(first), None);
    assert_eq!(trie.remove(second), Some(2));
    assert_bare(&trie);
}

#[test]
fn nodes_are_shared_and_go_with_the_last_entry_that_needs_them() {
    let mut trie = Trie::new();
    let long = trie.insert(&pattern("a/b/c"), ()).unwrap();
    let short = trie.insert(&pattern("a/b"), ()).unwrap();
    let other = trie.insert(&pattern("a/*/c"), ()).unwrap();
    assert_eq!(trie.node_count(), 5);
    trie.remove(long);
    assert_eq!(trie.node_count(), 4);
    trie.remove(other);
    assert_eq!(trie.node_count(), 2);
    trie.remove(short);
    assert_bare(&trie);
}

#[test]
fn memory_is_used_again_and_given_back_when_the_trie_empties() {
    let mut trie = Trie::new();
    let mut capacity = None;
    for round in 0..4 {
        let ids: Vec<EntryId> = (0..20_000)
            .map(|index| trie.insert(&pattern(&format!("r{round}/{index}/*")), index).unwrap())
            .collect();
        assert_eq!(trie.node_count(), 40_001);
        assert_eq!(*capacity.get_or_insert(trie.nodes.capacity()), trie.nodes.capacity());
        for id in ids {
            assert!(trie.remove(id).is_some());
        }
        assert_bare(&trie);
        assert!(trie.nodes.capacity() <= TRIE_RETAINED_NODES);
    }
}

#[test]
fn many_double_wildcards_on_both_sides_stay_within_nodes_times_positions() {
    let mut trie = Trie::new();
    for last in 0..50 {
        let text = format!("{}/end{last}", ["**/a/a/a/a"; 8].join("/"));
        trie.insert(&pattern(&text), last).unwrap();
    }
    let mut scratch = Scratch::new();
    let mut count = 0;
    trie.visit(&["a"; 64].join("/"), &mut scratch, |_| count += 1);
    assert_eq!(count, 0);
    trie.visit(&["a/a/a/a/**"; 8].join("/"), &mut scratch, |_| count += 1);
    assert_eq!(count, 50);
}

#[test]
fn a_lookup_of_a_concrete_topic_needs_no_new_memory_after_the_first() {
    let trie = trie_of(&["a/*/c", "a/**", "**/b/**/c", "**", "a/b/c"]);
    let mut scratch = Scratch::new();
    trie.visit("a/b/c/d/e", &mut scratch, |_| {});
    let before = scratch.capacity();
    for _ in 0..100 {
        trie.visit("a/b/c/d/e", &mut scratch, |_| {});
        trie.visit("a/x/c", &mut scratch, |_| {});
    }
    assert_eq!(scratch.capacity(), before);
}

#[test]
fn a_scratch_gives_back_what_a_single_large_lookup_needed() {
    let mut trie = Trie::new();
    for index in 0..50_000 {
        trie.insert(&pattern(&format!("**/{index}/**")), index).unwrap();
    }
    let mut scratch = Scratch::new();
    let mut count = 0;
    trie.visit("**/x/**", &mut scratch, |_| count += 1);
    assert_eq!(count, 50_000);
    let (pending, seen) = scratch.capacity();
    assert!(pending <= SCRATCH_RETAINED_STATES, "{pending}");
    assert!(seen <= 4 * SCRATCH_RETAINED_STATES, "{seen}");
}

#[test]
fn a_text_that_was_never_checked_finds_nothing_wrong_and_breaks_nothing() {
    let trie = trie_of(&["**", "a/*"]);
    for text in ["/", "//", "a//", "**/**/**", "a/+", &"/".repeat(100_000), &"**/a/".repeat(204)] {
        let _ = found(&trie, text);
    }
    assert_eq!(found(&trie, "a/+"), sorted(&["**", "a/*"]));
}

#[test]
fn a_scratch_is_fit_for_use_after_a_panic_in_a_lookup() {
    let trie = trie_of(&["a", "**", "**/a/**"]);
    let mut scratch = Scratch::new();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        trie.visit("**/a", &mut scratch, |_| panic!("planted"));
    }));
    assert!(panicked.is_err());
    let mut count = 0;
    trie.visit("b", &mut scratch, |_| count += 1);
    assert_eq!(count, 1);
}

#[test]
fn many_threads_may_look_up_at_once() {
    let trie = trie_of(&["a/*", "**/b"]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(found(&trie, "a/b"), ["**/b", "a/*"]));
        }
    });
}

fn fragments() -> impl Strategy<Value = String> {
    let names = &["a", "b", "c", "$a", "*", "*", "**", "**"][..];
    prop::collection::vec(prop::sample::select(names), 0..6).prop_map(|names| names.join("/"))
}

#[derive(Clone, Debug)]
enum Change {
    Insert(String),
    Remove(prop::sample::Index),
    Publish(String),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        3 => fragments().prop_map(Change::Insert),
        2 => any::<prop::sample::Index>().prop_map(Change::Remove),
        3 => fragments().prop_map(Change::Publish),
    ];
    prop::collection::vec(change, 0..120)
}

proptest! {
    #[test]
    fn the_trie_finds_what_a_plain_list_finds_through_all_changes(changes in changes()) {
        let mut trie = Trie::new();
        let mut list: Vec<(TopicPattern, EntryId, usize)> = Vec::new();
        let mut scratch = Scratch::new();
        for (number, change) in changes.into_iter().enumerate() {
            match change {
                Change::Insert(text) => {
                    let pattern = pattern(&text);
                    let id = trie.insert(&pattern, number).unwrap();
                    list.push((pattern, id, number));
                }
                Change::Remove(index) if !list.is_empty() => {
                    let (_, id, value) = list.swap_remove(index.index(list.len()));
                    prop_assert_eq!(trie.remove(id), Some(value));
                }
                Change::Remove(_) => {}
                Change::Publish(text) => {
                    let published = pattern(&text);
                    let mut found = Vec::new();
                    trie.visit(&text, &mut scratch, |value| found.push(*value));
                    found.sort_unstable();
                    let mut expected: Vec<usize> = list
                        .iter()
                        .filter(|(pattern, _, _)| pattern.meets(&published))
                        .map(|(_, _, value)| *value)
                        .collect();
                    expected.sort_unstable();
                    prop_assert_eq!(found, expected, "{}", text);
                }
            }
            prop_assert_eq!(trie.len(), list.len());
        }
        for (_, id, value) in list {
            prop_assert_eq!(trie.remove(id), Some(value));
        }
        assert_bare(&trie);
    }
}
