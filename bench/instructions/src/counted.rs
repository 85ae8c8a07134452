//! The part of a row that is counted.

/// What callgrind is told to count: the function below, in whatever way its name is mangled.
pub const SYMBOL_PATTERN: &str = "*counted_part*";

/// Runs the part of a row that is counted. Everything that it calls is counted too; what happens
/// before and after is not.
///
/// It is not generic, so that exactly one symbol has its name: a second one within the first would
/// switch the counting off again.
#[inline(never)]
pub fn counted_part(work: &mut dyn FnMut()) {
    work();
    // Keeps the call above from becoming a jump that never returns here.
    std::hint::black_box(());
}
