//! What the kernel object may not contain, and how large its programs may be.
//!
//! The linker always keeps memcpy and its kin, since the compiler may call them late; only who calls them counts. So
//! the calls are read out of the bytecode: a relative one, or one through a relocation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionFlags, SectionIndex};
use serde_json::{Map, Value, json};

use crate::run::root;

/// Byte loops. A copy that is worth a call is worth writing in words.
const MEMORY: &[&str] = &["memcpy", "memmove", "memset"];
/// Marks of a panic path, in mangled names.
const PANICS: &[&str] = &["panicking", "rust_begin_unwind", "unwrap_failed", "expect_failed", "slice_index_fail"];
/// What a chain of calls may use of the kernel's stack, in bytes.
const STACK: u64 = 512;
/// Kernels before 6.8 round the share of each function up to this, newer ones to half of it.
const STACK_STEP: u64 = 32;
/// Room that a new budget has above what is needed now, in percent.
const ROOM: u64 = 5;

/// Everything that is wrong with the object.
pub(super) fn check(object: &Path) -> Result<Vec<String>> {
    let graph = Graph::read(object)?;
    let mut problems = graph.forbidden();
    problems.extend(graph.too_deep());
    let budget = read_budget()?;
    for (program, bytes) in graph.programs() {
        match budget.get(&program).and_then(|row| row.get("bytes")).and_then(Value::as_u64) {
            Some(most) if bytes <= most => {}
            Some(most) => problems.push(format!("{program}: {bytes} bytes of bytecode, budget {most}")),
            None => problems.push(format!("{program}: no budget; cargo xtask lint --write-budget")),
        }
    }
    let known: BTreeSet<String> = graph.programs().into_keys().collect();
    let stale = budget.keys().filter(|name| !known.contains(*name));
    problems.extend(stale.map(|name| format!("{name}: has a budget and is no program of the object")));
    Ok(problems)
}

/// Writes what each program needs now, with a little room; the verified instructions stay as they are.
pub(super) fn write_budget(object: &Path) -> Result<()> {
    let old = read_budget()?;
    let mut rows = Map::new();
    for (program, bytes) in Graph::read(object)?.programs() {
        let verified = old.get(&program).and_then(|row| row.get("verified")).cloned().unwrap_or(Value::Null);
        let most = (bytes + bytes * ROOM / 100).next_multiple_of(64);
        println!("{program}: {bytes} bytes of bytecode, budget {most}");
        rows.insert(program, json!({ "bytes": most, "verified": verified }));
    }
    let text = serde_json::to_string_pretty(&Value::Object(rows))?;
    fs::write(budget_path(), format!("{text}\n")).context("cannot write the budget")
}

fn budget_path() -> PathBuf {
    root().join("xtask/budget.json")
}

fn read_budget() -> Result<Map<String, Value>> {
    let path = budget_path();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no budget table", path.display()))
}

/// A function of the object.
struct Function {
    name: String,
    section: SectionIndex,
    start: u64,
    size: u64,
    /// Programs stand in sections named after their hook, what they call in `.text`.
    program: bool,
    calls: BTreeSet<usize>,
    /// Bytes below the frame pointer that it reads, writes, or takes the address of.
    stack: u64,
}

/// Who calls whom.
struct Graph(Vec<Function>);

impl Graph {
    fn read(path: &Path) -> Result<Self> {
        let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file: ElfFile64<'_> =
            ElfFile64::parse(&*data).with_context(|| format!("{} is no object", path.display()))?;
        let mut graph = Self(Vec::new());
        for section in file.sections() {
            let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
            if sh_flags & u64::from(object::elf::SHF_EXECINSTR) == 0 {
                continue;
            }
            let symbols = file.symbols().filter(|s| s.section_index() == Some(section.index()) && s.size() > 0);
            graph.0.extend(symbols.map(|symbol| Function {
                name: symbol.name().unwrap_or("?").to_owned(),
                section: section.index(),
                start: symbol.address(),
                size: symbol.size(),
                program: !section.name().is_ok_and(|name| name.starts_with(".text")),
                calls: BTreeSet::new(),
                stack: 0,
            }));
        }
        for section in file.sections() {
            if graph.0.iter().any(|function| function.section == section.index()) {
                graph.read_calls(&file, &section)?;
            }
        }
        if !graph.0.iter().any(|function| function.program) {
            bail!("{} contains no program", path.display());
        }
        Ok(graph)
    }

    fn read_calls<'data>(
        &mut self,
        file: &ElfFile64<'data>,
        section: &object::read::elf::ElfSection64<'data, '_>,
    ) -> Result<()> {
        let code = section.data().context("a section of code without data")?;
        let relocations: BTreeMap<u64, _> = section.relocations().collect();
        let mut at = 0;
        while let Some(instruction) = code.get(at..at + 8) {
            let here = at as u64;
            let (opcode, source) = (instruction[0], instruction[1] >> 4);
            let wide = opcode == WIDE_LOAD;
            if let Some(depth) = depth(instruction)
                && let Some(function) = self.function_at(section.index(), here)
            {
                self.0[function].stack = self.0[function].stack.max(depth);
            }
            let immediate =
                i64::from(i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]));
            at += if wide { 16 } else { 8 };
            let call = opcode == CALL && source == PSEUDO_CALL;
            if !call && !wide {
                continue;
            }
            let target = match relocations.get(&here).map(object::Relocation::target) {
                Some(RelocationTarget::Symbol(symbol)) => {
                    let symbol = file.symbol_by_index(symbol).context("a relocation to no symbol")?;
                    // A call's immediate counts instructions from the next one, a load's counts bytes.
                    let offset = if call { (immediate + 1) * 8 } else { immediate };
                    symbol.section_index().map(|section| (section, symbol.address().wrapping_add_signed(offset)))
                }
                _ if call => Some((section.index(), here.wrapping_add_signed((immediate + 1) * 8))),
                _ => None,
            };
            let Some(callee) = target.and_then(|(section, address)| self.function_at(section, address)) else {
                continue;
            };
            if let Some(caller) = self.function_at(section.index(), here) {
                self.0[caller].calls.insert(callee);
            }
        }
        Ok(())
    }

    fn function_at(&self, section: SectionIndex, address: u64) -> Option<usize> {
        let covers = |f: &Function| f.section == section && (f.start..f.start + f.size).contains(&address);
        self.0.iter().position(covers)
    }

    /// Everything that a function needs, itself included.
    fn reachable(&self, from: usize) -> BTreeSet<usize> {
        let mut seen = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(function) = open.pop() {
            open.extend(self.0[function].calls.iter().filter(|callee| seen.insert(**callee)));
        }
        seen
    }

    /// Each program's bytes, what it calls included.
    fn programs(&self) -> BTreeMap<String, u64> {
        let programs = self.0.iter().enumerate().filter(|(_, function)| function.program);
        programs
            .map(|(index, f)| (f.name.clone(), self.reachable(index).into_iter().map(|i| self.0[i].size).sum()))
            .collect()
    }

    /// The deepest chain of calls from a function on: bytes of the stack, and who is in it. The verifier allows no
    /// recursion.
    fn deepest(&self, from: usize) -> (u64, Vec<&str>) {
        let function = &self.0[from];
        let (below, mut chain) = function.calls.iter().map(|callee| self.deepest(*callee)).max().unwrap_or_default();
        chain.insert(0, &function.name);
        (function.stack.max(1).next_multiple_of(STACK_STEP) + below, chain)
    }

    /// Programs that need more stack than an older kernel grants.
    fn too_deep(&self) -> Vec<String> {
        let programs = (0..self.0.len()).filter(|index| self.0[*index].program);
        let deepest = programs.map(|index| self.deepest(index)).filter(|(bytes, _)| *bytes > STACK);
        deepest
            .map(|(bytes, chain)| {
                format!("{}: {bytes} bytes of stack, and {STACK} are all there is", chain.join(" > "))
            })
            .collect()
    }

    /// Calls to byte loops, and panic paths.
    fn forbidden(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let programs = self.0.iter().enumerate().filter(|(_, function)| function.program);
        let needed: BTreeSet<usize> = programs.flat_map(|(index, _)| self.reachable(index)).collect();
        for caller in needed.iter().map(|index| &self.0[*index]) {
            for callee in caller.calls.iter().map(|index| &self.0[*index].name) {
                if MEMORY.contains(&callee.as_str()) && !MEMORY.contains(&caller.name.as_str()) {
                    problems.push(format!("{} calls {callee}: copy or clear in words", caller.name));
                }
            }
        }
        for function in &self.0 {
            if PANICS.iter().any(|mark| function.name.contains(mark)) {
                let by = self.0.iter().filter(|f| f.calls.iter().any(|callee| self.0[*callee].name == function.name));
                let by: Vec<&str> = by.map(|f| f.name.as_str()).collect();
                problems.push(format!("{}: a panic path, called by {}", function.name, by.join(", ")));
            }
        }
        problems
    }
}

/// How far below the frame pointer an instruction reaches, if it reads or writes there; if it makes a pointer into the
/// frame, that counts from the pointer on.
fn depth(instruction: &[u8]) -> Option<u64> {
    let &[opcode, registers, low, high, ref immediate @ ..] = instruction else { return None };
    let (target, source) = (registers & 15, registers >> 4);
    let base = match opcode & CLASS {
        LOAD => source,
        STORE | STORE_REGISTER => target,
        // What adds to a copy of the frame pointer: that of another pointer is positive.
        _ if opcode == ADD => {
            let added = i32::from_le_bytes(immediate.try_into().ok()?);
            return u64::try_from(-i64::from(added)).ok().filter(|depth| *depth <= STACK);
        }
        _ => return None,
    };
    let offset = i64::from(i16::from_le_bytes([low, high]));
    (base == FRAME_POINTER).then(|| u64::try_from(-offset).ok()).flatten()
}

/// The low bits of an opcode: its kind.
const CLASS: u8 = 7;
/// `BPF_LDX`
const LOAD: u8 = 1;
/// `BPF_ST`
const STORE: u8 = 2;
/// `BPF_STX`
const STORE_REGISTER: u8 = 3;
/// `BPF_ALU64 | BPF_ADD | BPF_K`
const ADD: u8 = 0x07;
/// `BPF_REG_FP`
const FRAME_POINTER: u8 = 10;
/// `BPF_LD | BPF_IMM | BPF_DW`, two slots: maps, and functions that are called back.
const WIDE_LOAD: u8 = 0x18;
/// `BPF_JMP | BPF_CALL`
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_CALL` in the source register: a function of the object and no helper.
const PSEUDO_CALL: u8 = 1;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Function, Graph, depth};

    fn graph(functions: &[(&str, bool, &[usize])]) -> Graph {
        let function = |(index, (name, program, calls)): (usize, &(&str, bool, &[usize]))| Function {
            name: (*name).to_owned(),
            section: object::SectionIndex(usize::from(*program)),
            start: index as u64 * 100,
            size: 100,
            program: *program,
            calls: calls.iter().copied().collect::<BTreeSet<_>>(),
            stack: 0,
        };
        Graph(functions.iter().enumerate().map(function).collect())
    }

    #[test]
    fn memory_calls_count_where_a_program_reaches_them() {
        let reached = graph(&[("tc", true, &[1]), ("helper", false, &[2]), ("memcpy", false, &[])]);
        assert_eq!(reached.forbidden(), ["helper calls memcpy: copy or clear in words"]);
        assert_eq!(reached.programs()["tc"], 300);
        let unused = graph(&[("tc", true, &[]), ("memmove", false, &[2]), ("memcpy", false, &[])]);
        assert_eq!(unused.forbidden(), Vec::<String>::new());
    }

    #[test]
    fn panics_are_found() {
        let panics = graph(&[("tc", true, &[1]), ("_ZN4core9panicking5panic17hE", false, &[])]);
        assert_eq!(panics.forbidden(), ["_ZN4core9panicking5panic17hE: a panic path, called by tc"]);
    }

    #[test]
    fn stacks_add_up_along_the_deepest_chain() {
        let mut chains = graph(&[("tc", true, &[1, 2]), ("wide", false, &[]), ("narrow", false, &[1])]);
        for (function, stack) in chains.0.iter_mut().zip([4, 256, 193]) {
            function.stack = stack;
        }
        assert_eq!((chains.deepest(0).0, chains.too_deep()), (512, Vec::new()));
        chains.0[2].stack = 225;
        assert_eq!(chains.too_deep(), ["tc > narrow > wide: 544 bytes of stack, and 512 are all there is"]);
    }

    #[test]
    fn what_reaches_below_the_frame_pointer_is_seen() {
        // *(u64 *)(r10 - 8) = r1; r1 = *(u32 *)(r10 - 256); r2 += -40; r1 = *(u32 *)(r2 - 256); r2 += 40
        assert_eq!(depth(&[0x7b, 0x1a, 0xf8, 0xff, 0, 0, 0, 0]), Some(8));
        assert_eq!(depth(&[0x61, 0xa1, 0x00, 0xff, 0, 0, 0, 0]), Some(256));
        assert_eq!(depth(&[0x07, 0x02, 0, 0, 0xd8, 0xff, 0xff, 0xff]), Some(40));
        assert_eq!(depth(&[0x61, 0x21, 0x00, 0xff, 0, 0, 0, 0]), None);
        assert_eq!(depth(&[0x07, 0x02, 0, 0, 40, 0, 0, 0]), None);
    }
}
