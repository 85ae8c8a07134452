//! What compressing and decompressing one message costs beside the bare algorithm, in one run.
//!
//! Both write into buffers that are reused, with the same states of zstd and tables of lz4. Rounds of all take turns;
//! the medians are shown. The messages are records in JSON, cut to size. Behind that come the sizes and costs of
//! several levels, from which the defaults were chosen.
//!
//! ```sh
//! cd bench && cargo run --release --example compression -- 15
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that fails has nothing to say"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use lz4_flex::block::{self, CompressTable};
use whispeer::engine::compression::{Compression, Dictionary};
use whispeer::engine::{Content, Context, Engine, Memory, MessageKind};
use zstd_safe::{CCtx, CDict, DCtx, DDict};

/// How long a measurement in a round takes about.
const ROUND: Duration = Duration::from_millis(30);
const SIZES: [usize; 3] = [16, 1024, 64 * 1024];

/// Something that is done to one message.
struct Step<'a> {
    name: String,
    run: Box<dyn FnMut() + 'a>,
    /// Nanoseconds, a round each.
    costs: Vec<f64>,
}

impl<'a> Step<'a> {
    fn new(name: impl Into<String>, run: impl FnMut() + 'a) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
            costs: Vec::new(),
        }
    }

    fn measure(&mut self) {
        let mut count = 0_u32;
        let begin = Instant::now();
        let mut batch = 1;
        while begin.elapsed() < ROUND {
            for _ in 0..batch {
                (self.run)();
            }
            count += batch;
            batch = (batch * 2).min(1024);
        }
        self.costs
            .push(begin.elapsed().as_nanos() as f64 / f64::from(count));
    }

    fn median(&self) -> f64 {
        let mut costs = self.costs.clone();
        costs.sort_by(f64::total_cmp);
        costs.get(costs.len() / 2).copied().unwrap_or_default()
    }
}

/// Lets all take turns.
fn measure(steps: &mut [Step<'_>], rounds: usize) {
    // The first round warms up.
    for round in 0..=rounds {
        for step in &mut *steps {
            step.measure();
            if round == 0 {
                step.costs.clear();
            }
        }
    }
}

fn record(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let states = ["new", "paid", "packed", "sent", "returned"];
    format!(
        r#"{{"order":{},"customer":"c-{:08x}","state":"{}","total_cents":{},"currency":"EUR","at":"2026-11-{:02}T{:02}:{:02}:{:02}Z","items":[{{"sku":"{:x}","count":{}}}]}}"#,
        100_000 + number,
        mixed >> 32,
        states[(mixed % 5) as usize],
        (mixed >> 20) % 100_000,
        1 + (mixed >> 8) % 28,
        (mixed >> 12) % 24,
        (mixed >> 16) % 60,
        (mixed >> 24) % 60,
        mixed >> 40,
        1 + (mixed >> 4) % 5,
    )
}

fn text(first: u64, size: usize) -> Vec<u8> {
    (first..)
        .flat_map(|number| record(number).into_bytes())
        .take(size)
        .collect()
}

fn seal(engine: &Compression, bytes: &[u8], output: &mut Vec<u8>) {
    output.clear();
    let context = Context::new("a/b", MessageKind::Publish);
    engine
        .seal(&context, Content { tag: 0, bytes }, output)
        .unwrap();
}

fn open(engine: &Compression, sealed: &[u8], memory: &mut Memory, output: &mut Vec<u8>) {
    output.clear();
    let context = Context::new("a/b", MessageKind::Publish);
    engine.open(&context, memory, sealed, output).unwrap();
}

fn sealing<'a>(engine: &'a Compression, bytes: &'a [u8]) -> impl FnMut() + 'a {
    let mut output = Vec::with_capacity(2 * bytes.len() + 1024);
    move || {
        seal(engine, bytes, &mut output);
        black_box(&output);
    }
}

fn opening<'a>(engine: &'a Compression, bytes: &[u8]) -> impl FnMut() + 'a {
    let mut sealed = Vec::new();
    seal(engine, bytes, &mut sealed);
    let (mut output, mut memory) = (Vec::with_capacity(bytes.len()), Memory::default());
    move || {
        open(engine, &sealed, &mut memory, &mut output);
        black_box(&output);
    }
}

fn bare_zstd<'a>(bytes: &'a [u8], digest: Option<&'a CDict<'a>>) -> impl FnMut() + 'a {
    let mut state = CCtx::create();
    let mut output = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    move || {
        match digest {
            None => state.compress(&mut output, bytes, 3).unwrap(),
            Some(digest) => state
                .compress_using_cdict(&mut output, bytes, digest)
                .unwrap(),
        };
        black_box(&output);
    }
}

fn bare_unzstd<'a>(
    bytes: &[u8],
    digest: Option<(&'a CDict<'a>, &'a DDict<'a>)>,
) -> impl FnMut() + 'a {
    let mut frame = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    match digest {
        None => CCtx::create().compress(&mut frame, bytes, 3).unwrap(),
        Some((digest, _)) => CCtx::create()
            .compress_using_cdict(&mut frame, bytes, digest)
            .unwrap(),
    };
    let (mut state, mut output) = (DCtx::create(), Vec::with_capacity(bytes.len()));
    move || {
        match digest {
            None => state.decompress(&mut output, &frame).unwrap(),
            Some((_, digest)) => state
                .decompress_using_ddict(&mut output, &frame, digest)
                .unwrap(),
        };
        black_box(&output);
    }
}

fn bare_lz4(bytes: &[u8]) -> impl FnMut() {
    let mut table = if bytes.len() < 65_535 {
        CompressTable::small()
    } else {
        CompressTable::large()
    };
    let mut output = vec![0; block::get_maximum_output_size(bytes.len())];
    move || {
        block::compress_into_with_table(bytes, &mut output, &mut table).unwrap();
        black_box(&output);
    }
}

fn bare_unlz4(bytes: &[u8]) -> impl FnMut() + 'static {
    let block = block::compress(bytes);
    let mut output = vec![0; bytes.len()];
    move || {
        block::decompress_into(&block, &mut output).unwrap();
        black_box(&output);
    }
}

fn beside_bare(rounds: usize, dictionary: &Dictionary) {
    let digest = CDict::create(dictionary.as_bytes(), 3);
    let undigest = DDict::create(dictionary.as_bytes());
    let zstd = Compression::new().threshold(0);
    let with_dictionary = Compression::new()
        .dictionary(dictionary.clone())
        .threshold(0);
    let lz4 = Compression::lz4().threshold(0);
    let (usual, none) = (Compression::new(), Compression::none());
    println!(
        "| bytes | what | bare, ns | engine, ns | more | of the size |\n|---|---|---|---|---|---|"
    );
    for size in SIZES {
        let bytes = text(7_000_000, size);
        let mut steps = vec![
            Step::new("zstd, compress", bare_zstd(&bytes, None)),
            Step::new("", sealing(&zstd, &bytes)),
            Step::new("zstd, decompress", bare_unzstd(&bytes, None)),
            Step::new("", opening(&zstd, &bytes)),
            Step::new(
                "zstd with a dictionary, compress",
                bare_zstd(&bytes, Some(&digest)),
            ),
            Step::new("", sealing(&with_dictionary, &bytes)),
            Step::new(
                "zstd with a dictionary, decompress",
                bare_unzstd(&bytes, Some((&digest, &undigest))),
            ),
            Step::new("", opening(&with_dictionary, &bytes)),
            Step::new("lz4, compress", bare_lz4(&bytes)),
            Step::new("", sealing(&lz4, &bytes)),
            Step::new("lz4, decompress", bare_unlz4(&bytes)),
            Step::new("", opening(&lz4, &bytes)),
            Step::new("stored, copy", {
                let mut output = Vec::with_capacity(bytes.len());
                let bytes = &bytes;
                move || {
                    output.clear();
                    output.extend_from_slice(bytes);
                    black_box(&output);
                }
            }),
            Step::new("", sealing(&none, &bytes)),
            Step::new("as by default, compress", bare_zstd(&bytes, None)),
            Step::new("", sealing(&usual, &bytes)),
        ];
        measure(&mut steps, rounds);
        let engines = [
            &zstd,
            &zstd,
            &with_dictionary,
            &with_dictionary,
            &lz4,
            &lz4,
            &none,
            &usual,
        ];
        for (pair, engine) in steps.chunks(2).zip(engines) {
            let [bare, ours] = pair else { continue };
            let mut sealed = Vec::new();
            seal(engine, &bytes, &mut sealed);
            println!(
                "| {size} | {} | {:.0} | {:.0} | {:+.1} % | {:.0} % |",
                bare.name,
                bare.median(),
                ours.median(),
                (ours.median() / bare.median() - 1.0) * 100.0,
                100.0 * sealed.len() as f64 / size as f64,
            );
        }
    }
}

/// Sizes and costs by level: what the defaults were chosen from.
fn levels(rounds: usize, dictionary: &Dictionary) {
    println!(
        "\n| bytes | by | compress, ns | decompress, ns | of the size |\n|---|---|---|---|---|"
    );
    let mut engines = vec![("lz4".to_owned(), Compression::lz4())];
    for level in [-5, -1, 1, 2, 3, 4, 5, 6, 9, 12, 19] {
        engines.push((format!("zstd {level}"), Compression::new().level(level)));
    }
    for level in [1, 3, 6, 12] {
        let engine = Compression::new()
            .level(level)
            .dictionary(dictionary.clone());
        engines.push((format!("zstd {level} with a dictionary"), engine));
    }
    let engines: Vec<_> = engines
        .into_iter()
        .map(|(name, engine)| (name, engine.threshold(0)))
        .collect();
    for size in [32, 64, 128, 256, 512, 1024, 4096, 16 * 1024, 64 * 1024] {
        let bytes = text(7_000_000, size);
        let mut steps = Vec::new();
        for (name, engine) in &engines {
            steps.push(Step::new(name, sealing(engine, &bytes)));
            steps.push(Step::new("", opening(engine, &bytes)));
        }
        measure(&mut steps, rounds);
        for (pair, (name, engine)) in steps.chunks(2).zip(&engines) {
            let [compress, decompress] = pair else {
                continue;
            };
            let mut sealed = Vec::new();
            seal(engine, &bytes, &mut sealed);
            println!(
                "| {size} | {name} | {:.0} | {:.0} | {:.0} % |",
                compress.median(),
                decompress.median(),
                100.0 * sealed.len() as f64 / size as f64,
            );
        }
    }
}

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .map_or(15, |rounds| rounds.parse().unwrap());
    let samples: Vec<String> = (0..5_000).map(record).collect();
    let dictionary = Dictionary::train(&samples, 16 * 1024).unwrap();
    beside_bare(rounds, &dictionary);
    levels(rounds.div_ceil(3), &dictionary);
}
