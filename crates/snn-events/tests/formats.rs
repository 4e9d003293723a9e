//! Each format, from bytes that these tests write by its layout, whole and cut at every place.

use std::io::Cursor;

use snn_events::{Event, Format, Frames, Polarity, Reader, summary};

/// Events in order, with times that pass every overflow of the formats' counters of some bits.
fn events(n: usize) -> Vec<Event> {
    let mut state = 7u64;
    let mut next = |most: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % most
    };
    let mut t = 5;
    (0..n)
        .map(|_| {
            t += next(300) as i64;
            Event { t, x: next(34) as u16, y: next(34) as u16, on: next(2) == 1 }
        })
        .collect()
}

fn written(format: Format, events: &[Event]) -> Vec<u8> {
    let mut b: Vec<u8> = vec![];
    match format {
        Format::NMnist => {
            let mut over = 0;
            for e in events {
                while e.t - over >= 1 << 23 {
                    b.extend([0, 240, 0, 0, 0]);
                    over += 1 << 13;
                }
                let t = (e.t - over) as u32;
                b.extend([e.x as u8, e.y as u8, u8::from(e.on) << 7 | (t >> 16) as u8, (t >> 8) as u8, t as u8]);
            }
        }
        Format::Aedat2 => {
            b.extend(b"#!AER-DAT2.0\r\n# a comment\r\n");
            for e in events {
                b.extend((u32::from(e.x) << 8 | u32::from(e.y) << 1 | u32::from(e.on)).to_be_bytes());
                b.extend((e.t as u32).to_be_bytes());
            }
        }
        Format::Aedat31 => {
            b.extend(b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n");
            for (i, packet) in events.chunks(7).enumerate() {
                // Now and then a packet of another kind, with larger events.
                let header = |kind: u16, size: u32, n: u32| {
                    let mut h = vec![];
                    h.extend(kind.to_le_bytes());
                    h.extend(1u16.to_le_bytes());
                    [size, 4, 0, n, n, n].iter().for_each(|v| h.extend(v.to_le_bytes()));
                    h
                };
                if i % 3 == 1 {
                    b.extend(header(3, 36, 2));
                    b.extend([0xaa; 72]);
                }
                b.extend(header(1, 8, packet.len() as u32));
                for e in packet {
                    b.extend((u32::from(e.x) << 17 | u32::from(e.y) << 2 | u32::from(e.on) << 1 | 1).to_le_bytes());
                    b.extend((e.t as u32).to_le_bytes());
                }
            }
        }
        Format::Dat => {
            b.extend(b"% Data file\n% Width 34\n% Height 34\n");
            b.extend([0, 8]);
            for e in events {
                b.extend((e.t as u32).to_le_bytes());
                b.extend((u32::from(e.x) | u32::from(e.y) << 14 | u32::from(e.on) << 28).to_le_bytes());
            }
        }
        Format::Evt2 => {
            b.extend(b"% evt 2.0\n% geometry 34x34\n% end\n");
            let mut high = -1;
            for e in events {
                if e.t >> 6 != high {
                    high = e.t >> 6;
                    b.extend((8u32 << 28 | high as u32).to_le_bytes());
                }
                let t = (e.t & 63) as u32;
                b.extend((u32::from(e.on) << 28 | t << 22 | u32::from(e.x) << 11 | u32::from(e.y)).to_le_bytes());
            }
        }
        Format::Evt3 => {
            b.extend(b"% evt 3.0\n% format EVT3;height=34;width=34\n% end\n");
            for e in events {
                let words = [
                    8 << 12 | (e.t >> 12 & 0xfff),
                    6 << 12 | (e.t & 0xfff),
                    i64::from(e.y),
                    2 << 12 | i64::from(e.on) << 11 | i64::from(e.x),
                ];
                words.iter().for_each(|w| b.extend((*w as u16).to_le_bytes()));
            }
        }
        Format::Csv => {
            b.extend(b"x,y,p,t\n");
            events.iter().for_each(|e| b.extend(format!("{},{},{},{}\n", e.x, e.y, u8::from(e.on), e.t).bytes()));
        }
        Format::Npy => {
            let text = format!("{{'descr': '<i8', 'fortran_order': False, 'shape': ({}, 4), }}", events.len());
            b.extend(b"\x93NUMPY\x01\x00");
            b.extend(((text.len() + 1) as u16).to_le_bytes());
            b.extend(text.bytes());
            b.push(b'\n');
            for e in events {
                [e.t, e.x.into(), e.y.into(), e.on.into()].iter().for_each(|v| b.extend(v.to_le_bytes()));
            }
        }
        Format::Aedat4 | Format::Spoken => {}
    }
    b
}

fn ending(format: Format) -> &'static str {
    match format {
        Format::NMnist => "bin",
        Format::Aedat2 | Format::Aedat31 => "aedat",
        Format::Aedat4 => "aedat4",
        Format::Dat => "dat",
        Format::Evt2 | Format::Evt3 => "raw",
        Format::Csv => "csv",
        Format::Npy => "npy",
        Format::Spoken => "h5",
    }
}

fn read(bytes: Vec<u8>, ending: &str) -> Result<(Format, Vec<Event>, Option<u64>), String> {
    let mut reader = Reader::new(Box::new(Cursor::new(bytes)), "test", ending, None).map_err(|e| e.to_string())?;
    let (mut all, mut some) = (vec![], vec![]);
    while reader.next(&mut some).map_err(|e| e.to_string())? {
        all.extend_from_slice(&some);
    }
    let broken = reader.broken().map(|b| {
        assert_eq!(b.kept, all.len() as u64);
        b.byte
    });
    Ok((reader.format(), all, broken))
}

const FORMATS: [Format; 8] =
    [Format::NMnist, Format::Aedat2, Format::Aedat31, Format::Dat, Format::Evt2, Format::Evt3, Format::Csv, Format::Npy];

#[test]
fn what_is_written_is_read() {
    // Long enough for the 24 bits of EVT 3 and the overflow of N-MNIST.
    let all = events(120_000);
    assert!(all.last().unwrap().t > 1 << 24);
    for format in FORMATS {
        let (found, got, broken) = read(written(format, &all), ending(format)).unwrap();
        assert_eq!((found, broken), (format, None));
        assert!(got == all, "{format:?}: {} of {} events", got.len(), all.len());
    }
}

#[test]
fn vectors_of_evt3_and_small_steps_back() {
    let mut b = b"% evt 3.0\n% end\n".to_vec();
    let words: [u16; 9] = [
        8 << 12 | 811,
        6 << 12 | 5,
        7,
        3 << 12 | 1 << 11 | 100,
        4 << 12 | 0b1000_0000_0101,
        5 << 12 | 0b1000_0001,
        8 << 12 | 800,
        6 << 12 | 9,
        2 << 12 | 3,
    ];
    words.iter().for_each(|w| b.extend(w.to_le_bytes()));
    let (_, got, _) = read(b, "raw").unwrap();
    let at = |t, x, on| Event { t, x, y: 7, on };
    let t = 811 * 4096 + 5;
    assert_eq!(
        got,
        [at(t, 100, true), at(t, 102, true), at(t, 111, true), at(t, 112, true), at(t, 119, true), at(800 * 4096 + 9, 3, false)]
    );
}

#[test]
fn a_cut_file_keeps_what_is_whole() {
    let all = events(40);
    for format in FORMATS {
        let bytes = written(format, &all);
        for n in 0..bytes.len() {
            // A header that is cut is an error, events that are cut are where the file breaks.
            if let Ok((_, got, broken)) = read(bytes[..n].to_vec(), ending(format)) {
                assert!(
                    got == all[..got.len()] || format == Format::Csv && got[..got.len() - 1] == all[..got.len() - 1],
                    "{format:?} cut at {n}"
                );
                assert!(broken.is_none_or(|b| b <= n as u64), "{format:?} cut at {n}");
            }
        }
    }
}

#[test]
fn broken_bytes_are_no_panic() {
    let all = events(40);
    let davis = include_bytes!("data/davis346.aedat4");
    for format in FORMATS {
        let bytes = written(format, &all);
        for i in 0..bytes.len() {
            for value in [0u8, 0xff, bytes[i] ^ 0x80] {
                let mut b = bytes.clone();
                b[i] = value;
                let _ = read(b, ending(format));
            }
        }
    }
    for i in (0..6000).step_by(5) {
        let mut b = davis[..20_000].to_vec();
        b[i] ^= 0x40;
        let _ = read(b, "aedat4");
    }
}

#[test]
fn a_recording_of_a_davis_346() {
    let bytes = include_bytes!("data/davis346.aedat4").to_vec();
    let mut reader = Reader::new(Box::new(Cursor::new(bytes)), "davis", "aedat4", None).unwrap();
    let s = summary(&mut reader, |_, _| {}).unwrap();
    assert_eq!((s.width, s.height, s.events, s.on), (346, 260, 402, 203));
    assert_eq!(s.first_us, 1_589_163_147_368_868);
    assert_eq!(s.broken, None);
}

#[test]
fn frames_count_what_is_there() {
    let all = events(500);
    let reader = || Reader::new(Box::new(Cursor::new(written(Format::Csv, &all))), "r.csv", "csv", None).unwrap();
    let start = all[0].t;
    for polarity in [Polarity::Split, Polarity::Sum, Polarity::Sign] {
        let mut frames = Frames::new(reader(), 1000, (34, 34), polarity);
        let mut n = 0;
        while let Some(frame) = frames.next().unwrap() {
            let mut want = vec![0f32; polarity.channels() * 34 * 34];
            for e in all.iter().filter(|e| (e.t - start) / 1000 == n) {
                let place = usize::from(e.y) * 34 + usize::from(e.x);
                match polarity {
                    Polarity::Split => want[usize::from(e.on) * 34 * 34 + place] += 1.0,
                    Polarity::Sum => want[place] += 1.0,
                    Polarity::Sign => want[place] += if e.on { 1.0 } else { -1.0 },
                }
            }
            assert_eq!(frame, want, "frame {n}");
            n += 1;
        }
        assert_eq!(n, (all.last().unwrap().t - start) / 1000 + 1);
    }
    let mut frames = Frames::new(reader(), 1000, (34, 20), Polarity::Sum);
    let error = std::iter::from_fn(|| frames.next().map(|f| f.map(|_| ())).transpose()).find_map(Result::err).unwrap().to_string();
    assert!(error.contains("outside of 34 x 20"), "{error}");
    let csv = "t,x,y,p\n0,1,1,1\n500000,1,1,1\n100,1,1,1\n";
    let reader = Reader::new(Box::new(Cursor::new(csv.as_bytes().to_vec())), "r.csv", "csv", None).unwrap();
    let mut frames = Frames::new(reader, 1000, (34, 34), Polarity::Sum);
    let error = std::iter::from_fn(|| frames.next().map(|f| f.map(|_| ())).transpose()).find_map(Result::err).unwrap().to_string();
    assert!(error.contains("out of order") && error.contains("event 2"), "{error}");
}

#[test]
fn errors_say_what_is_known() {
    for (bytes, ending, want) in [
        (&b""[..], "bin", "it is empty"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08", "xyz", "`--format` says it"),
        (b"\x01\x02\x03\x04", "raw", "--format evt2"),
        (b"% evt 4.0\n% end\n", "raw", "EVT 4"),
        (b"a,b,c,d\n1,2,3,4\n", "csv", "names no columns"),
        (b"t,x,y,p\n1,2,3,1\nhello\n1,2,3,1\n", "csv", "line 3"),
        (b"\x89HDF\r\n\x1a\n", "h5", "SHD"),
    ] {
        let error = read(bytes.to_vec(), ending).unwrap_err();
        assert!(error.contains(want), "{error}");
    }
}
