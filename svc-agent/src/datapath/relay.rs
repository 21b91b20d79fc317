//! A program that writes its packet anew and hands it to another program, for measurements.
//!
//! A test run with repetitions hands the packet that one repetition has rewritten to the next. Behind a relay each
//! begins with the same packet, or with the same but for its source port, which counts up: a new connection each time.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use super::bpf;
use super::empty::Kind;
use super::table::Table;

/// A relay and where it leads.
#[derive(Debug)]
pub struct Relay {
    program: OwnedFd,
    /// Holds the program that the relay leads to.
    _target: Table<u32, u32>,
}

/// What a relay returns that could not hand its packet on.
pub const STRANDED: u32 = 77;

impl Relay {
    /// A relay that writes `frame` and leads to `target`. `counted`: offset of the source port that counts up.
    pub fn load(kind: Kind, frame: &[u8], counted: Option<usize>, target: BorrowedFd<'_>) -> io::Result<Self> {
        let shape = bpf::MapShape { kind: bpf::PROG_ARRAY, key: 4, value: 4, entries: 1, flags: 0 };
        let map = Table::<u32, u32>::new(bpf::map_create("RELAY", shape)?)?;
        map.set(&0, &(target.as_raw_fd() as u32))?;
        let program = kind.load(&instructions(kind, frame, counted, map.fd().as_raw_fd()))?;
        Ok(Self { program, _target: map })
    }

    /// The program.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// Registers (RFC 9669): the result, arguments and scratch, and one that calls leave alone.
const R0: u64 = 0;
const R1: u64 = 1;
const R2: u64 = 2;
const R3: u64 = 3;
const R4: u64 = 4;
const R5: u64 = 5;
const R6: u64 = 6;

/// One instruction in a word.
const fn one(code: u8, to: u64, from: u64, offset: i16, number: i32) -> u64 {
    code as u64 | to << 8 | from << 12 | (offset as u16 as u64) << 16 | (number as u32 as u64) << 32
}

fn instructions(kind: Kind, frame: &[u8], counted: Option<usize>, map: i32) -> Vec<u64> {
    const MOVE: u8 = 0xbf;
    const MOVE_NUMBER: u8 = 0xb7;
    const ADD_NUMBER: u8 = 0x07;
    const LOAD_WORD: u8 = 0x61;
    const LOAD_HALF: u8 = 0x69;
    const STORE_BYTE: u8 = 0x73;
    const STORE_WORD: u8 = 0x63;
    const STORE_HALF: u8 = 0x6b;
    const TO_BIG_ENDIAN: u8 = 0xdc;
    const JUMP_IF_GREATER: u8 = 0x2d;
    const LONG: u8 = 0x18;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const MAP: u64 = 1;
    const TAIL_CALL: i32 = 12;
    /// `data`, `data_end` of the contexts, and the mark of `__sk_buff`.
    const SKB: [i16; 2] = [76, 80];
    const XDP: [i16; 2] = [0, 4];
    const MARK: i16 = 8;

    let [data, end] = if kind == Kind::Xdp { XDP } else { SKB };
    let length = frame.len() as i32;
    let mut body = Vec::new();
    if let Some(offset) = counted {
        body.push(one(LOAD_HALF, R5, R2, offset as i16, 0));
        body.push(one(TO_BIG_ENDIAN, R5, 0, 0, 16));
        body.push(one(ADD_NUMBER, R5, 0, 0, 1));
        body.push(one(TO_BIG_ENDIAN, R5, 0, 0, 16));
    }
    let (words, rest) = frame.as_chunks::<4>();
    for (index, word) in words.iter().enumerate() {
        body.push(one(MOVE_NUMBER, R4, 0, 0, i32::from_ne_bytes(*word)));
        body.push(one(STORE_WORD, R2, R4, index as i16 * 4, 0));
    }
    for (index, byte) in rest.iter().enumerate() {
        body.push(one(MOVE_NUMBER, R4, 0, 0, i32::from(*byte)));
        body.push(one(STORE_BYTE, R2, R4, (words.len() * 4 + index) as i16, 0));
    }
    if let Some(offset) = counted {
        body.push(one(STORE_HALF, R2, R5, offset as i16, 0));
    }
    if kind == Kind::Classifier {
        body.push(one(MOVE_NUMBER, R4, 0, 0, 0));
        body.push(one(STORE_WORD, R6, R4, MARK, 0));
    }
    body.extend([
        one(MOVE, R1, R6, 0, 0),
        one(LONG, R2, MAP, 0, map),
        0,
        one(MOVE_NUMBER, R3, 0, 0, 0),
        one(CALL, 0, 0, 0, TAIL_CALL),
    ]);
    let mut all = vec![
        one(MOVE, R6, R1, 0, 0),
        one(LOAD_WORD, R2, R6, data, 0),
        one(LOAD_WORD, R3, R6, end, 0),
        one(MOVE, R4, R2, 0, 0),
        one(ADD_NUMBER, R4, 0, 0, length),
        one(JUMP_IF_GREATER, R4, R3, body.len() as i16, 0),
    ];
    all.append(&mut body);
    all.extend([one(MOVE_NUMBER, R0, 0, 0, STRANDED as i32), one(EXIT, 0, 0, 0, 0)]);
    all
}
