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

/// Steps of a whole lookup.
fn steps<V>(trie: &Trie<V>, published: &str) -> usize {
    let mut scratch = Scratch::new();
    trie.begin(published, &mut scratch);
    let progress = trie.proceed(published, &mut scratch, usize::MAX, |_| {}).unwrap();
    assert!(progress.done);
    progress.steps
}

#[test]
fn each_node_is_seen_once_however_many_double_wildcards_there_are_on_both_sides() {
    let mut trie = Trie::new();
    for last in 0..50 {
        let text = format!("{}/end{last}", ["**/a/a/a/a"; 8].join("/"));
        trie.insert(&pattern(&text), last).unwrap();
    }
    let hard = ["a/a/a/a/**"; 8].join("/");
    let mut count = 0;
    trie.visit(&["a"; 64].join("/"), &mut Scratch::new(), |_| count += 1);
    assert_eq!(count, 0);
    trie.visit(&hard, &mut Scratch::new(), |_| count += 1);
    assert_eq!(count, 50);
    for published in [&*["a"; 64].join("/"), &*hard, "**/a/**/b/**/c/**/d", "**"] {
        // A node is seen once and looked at once by its parent, or looked for once.
        assert!(steps(&trie, published) <= 2 * trie.node_count() + 2 + trie.len(), "{published}");
    }
}

#[test]
fn a_concrete_topic_leads_to_no_more_nodes_than_its_own_path() {
    let mut trie = Trie::new();
    for number in 0..10_000 {
        trie.insert(&pattern(&format!("a/{number}/b/c")), number).unwrap();
    }
    assert_eq!(steps(&trie, "a/77/b/c"), 10);
    assert_eq!(steps(&trie, "unheard/of"), 1);
    assert!(steps(&trie, "**/unheard/**/of") <= 2 * trie.node_count() + 2);
}

#[test]
fn a_piece_of_a_lookup_ends_within_its_steps_and_the_children_of_one_node() {
    let mut trie = Trie::new();
    for number in 0..4_000 {
        trie.insert(&pattern(&format!("a/{}/b/{number}", number % 100)), number).unwrap();
    }
    let mut scratch = Scratch::new();
    let (mut found, mut all, mut pieces) = (0, 0, 0);
    trie.begin("**/b/*", &mut scratch);
    loop {
        let progress = trie.proceed("**/b/*", &mut scratch, 50, |_| found += 1).unwrap();
        assert!(progress.steps <= 50 + 101, "{progress:?}");
        all += progress.steps;
        pieces += 1;
        if progress.done {
            break;
        }
    }
    assert_eq!((found, all), (4_000, steps(&trie, "**/b/*")));
    assert!(pieces > 50, "{pieces}");
}

#[test]
fn many_entries_of_one_pattern_are_found_in_pieces_in_their_order() {
    let mut trie = Trie::new();
    let ids: Vec<EntryId> = (0..1_000).map(|n| trie.insert(&pattern("a/*"), n).unwrap()).collect();
    let mut scratch = Scratch::new();
    let mut found = Vec::new();
    trie.begin("a/b", &mut scratch);
    let mut removed = Vec::new();
    loop {
        let progress = trie.proceed("a/b", &mut scratch, 50, |n| found.push(*n)).unwrap();
        assert!(progress.steps <= 52, "{progress:?}");
        if progress.done {
            break;
        }
        // The one that comes next goes, then one that was found, and one comes that is new.
        let next = found.last().map_or(0, |last| last + 1);
        if next < 1_000 {
            trie.remove(ids[next]).unwrap();
            removed.push(next);
        }
        trie.remove(ids[found[0] + removed.len()]);
        trie.insert(&pattern("a/*"), 1_000).unwrap();
    }
    let expected: Vec<_> = (0..1_000).filter(|n| !removed.contains(n)).collect();
    assert_eq!(found, expected);
    assert!(removed.len() > 10);
}

#[test]
fn a_lookup_in_pieces_goes_on_when_all_that_it_was_to_see_has_gone() {
    let mut trie = Trie::new();
    let fill = |trie: &mut Trie<usize>, first: &str| -> Vec<EntryId> {
        (0..5_000).map(|n| trie.insert(&pattern(&format!("{first}/{n}/c")), n).unwrap()).collect()
    };
    let ids = fill(&mut trie, "a");
    let mut scratch = Scratch::new();
    let mut found = Vec::new();
    trie.begin("a/**", &mut scratch);
    assert!(!trie.proceed("a/**", &mut scratch, 100, |n| found.push(*n)).unwrap().done);
    for id in ids {
        trie.remove(id);
    }
    assert_bare(&trie);
    // What comes next takes the places, and the symbols, of what has gone.
    fill(&mut trie, "b");
    let before = found.len();
    while !trie.proceed("a/**", &mut scratch, 100, |n| found.push(*n)).unwrap().done {}
    assert_eq!(found.len(), before);
}

#[test]
fn a_lookup_that_leads_to_too_many_places_at_once_is_refused_and_leaves_the_scratch_fit_for_use() {
    let mut trie = Trie::new();
    for number in 0..=LOOKUP_WIDTH {
        trie.insert(&pattern(&format!("a/{number}")), number).unwrap();
    }
    let mut scratch = Scratch::new();
    trie.begin("a/*", &mut scratch);
    assert_eq!(trie.proceed("a/*", &mut scratch, usize::MAX, |_| {}), Err(LookupTooWide));
    let mut found = Vec::new();
    trie.begin("a/7", &mut scratch);
    assert!(trie.proceed("a/7", &mut scratch, 100, |number| found.push(*number)).unwrap().done);
    assert_eq!(found, [7]);
    trie.visit("*/*", &mut scratch, |number| found.push(*number));
    assert_eq!(found.len(), LOOKUP_WIDTH + 2);
    assert!(scratch.held() <= 16 * SCRATCH_RETAINED_STATES, "{}", scratch.held());
}

#[test]
fn fragments_whose_hashes_collide_are_told_apart() {
    // Among so many some have the same 32 bits.
    const COUNT: usize = 300_000;
    let mut trie = Trie::new();
    let ids: Vec<EntryId> =
        (0..COUNT).map(|number| trie.insert(&pattern(&number.to_string()), number).unwrap()).collect();
    let mut scratch = Scratch::new();
    let mut check = |trie: &Trie<usize>, present: &dyn Fn(usize) -> bool| {
        for number in 0..COUNT {
            let mut found = None;
            trie.visit(&number.to_string(), &mut scratch, |value| found = Some(*value));
            assert_eq!(found, present(number).then_some(number));
        }
    };
    check(&trie, &|_| true);
    for id in ids.iter().step_by(2) {
        trie.remove(*id);
    }
    check(&trie, &|number| number % 2 == 1);
    for id in ids.iter().skip(1).step_by(2) {
        trie.remove(*id);
    }
    assert_bare(&trie);
}

#[test]
fn a_lookup_of_a_concrete_topic_needs_no_new_memory_after_the_first() {
    let trie = trie_of(&["a/*/c", "a/**", "**/b/**/c", "**", "a/b/c"]);
    let mut scratch = Scratch::new();
    trie.visit("a/b/c/d/e", &mut scratch, |_| {});
    let before = scratch.held();
    for _ in 0..100 {
        trie.visit("a/b/c/d/e", &mut scratch, |_| {});
        trie.visit("a/x/c", &mut scratch, |_| {});
    }
    assert_eq!(scratch.held(), before);
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
    assert!(scratch.held() <= 16 * SCRATCH_RETAINED_STATES, "{}", scratch.held());
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

    #[test]
    fn a_lookup_in_pieces_finds_all_that_stays_and_nothing_else_through_all_changes(
        before in prop::collection::vec(fragments(), 0..40),
        published in fragments(),
        pieces in prop::collection::vec((1usize..6, changes()), 0..8),
    ) {
        let mut trie = Trie::new();
        let mut list: Vec<(TopicPattern, EntryId, usize)> = Vec::new();
        for text in &before {
            let pattern = pattern(text);
            let number = list.len();
            let id = trie.insert(&pattern, number).unwrap();
            list.push((pattern, id, number));
        }
        let sought = pattern(&published);
        let meeting = |list: &[(TopicPattern, EntryId, usize)]| -> Vec<usize> {
            let meeting = list.iter().filter(|(pattern, _, _)| pattern.meets(&sought));
            meeting.map(|(_, _, number)| *number).filter(|number| *number < before.len()).collect()
        };
        let all = meeting(&list);
        let mut next = before.len();
        let mut found = Vec::new();
        let mut scratch = Scratch::new();
        trie.begin(&published, &mut scratch);
        for (steps, changes) in pieces {
            trie.proceed(&published, &mut scratch, steps, |number| found.push(*number)).unwrap();
            for change in changes {
                match change {
                    Change::Insert(text) => {
                        let pattern = pattern(&text);
                        let id = trie.insert(&pattern, next).unwrap();
                        list.push((pattern, id, next));
                        next += 1;
                    }
                    Change::Remove(index) if !list.is_empty() => {
                        let (_, id, _) = list.swap_remove(index.index(list.len()));
                        trie.remove(id).unwrap();
                    }
                    Change::Remove(_) | Change::Publish(_) => {}
                }
            }
        }
        while !trie.proceed(&published, &mut scratch, 3, |number| found.push(*number)).unwrap().done {}
        let times = |number: &usize| found.iter().filter(|found| *found == number).count();
        for number in &found {
            prop_assert_eq!(times(number), 1, "{} was found more than once", number);
            prop_assert!(all.contains(number), "{} does not meet {}", number, published);
        }
        for number in meeting(&list) {
            prop_assert_eq!(times(&number), 1, "{} was there all the time", number);
        }
    }
}
