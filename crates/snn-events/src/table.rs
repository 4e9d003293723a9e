//! Events as rows of a CSV or of an `.npy` array: `t, x, y, p`.

use crate::Event;
use crate::input::Input;

/// The longest line, and the longest header of an array.
const LONGEST: usize = 1 << 16;

/// Where each of t, x, y, p stands among the columns, and by what times are multiplied.
#[derive(Clone, Debug)]
pub struct Columns {
    at: [usize; 4],
    scale: f64,
}

impl Columns {
    /// `t, x, y, p`, or as a first line names them.
    pub fn of(line: &str) -> Option<Columns> {
        let names: Vec<String> = line.split([',', ';', '\t']).map(|n| n.trim().trim_matches('"').to_lowercase()).collect();
        let find = |known: &[&str]| names.iter().position(|n| known.contains(&n.as_str()));
        let t = find(&["t", "time", "timestamp", "ts", "t_us", "us", "t_s", "seconds"])?;
        let scale = if matches!(names[t].as_str(), "t_s" | "seconds") { 1e6 } else { 1.0 };
        Some(Columns { at: [t, find(&["x", "column"])?, find(&["y", "row"])?, find(&["p", "pol", "polarity", "on"])?], scale })
    }

    /// In this order.
    pub fn usual() -> Columns {
        Columns { at: [0, 1, 2, 3], scale: 1.0 }
    }

    /// A row.
    pub fn event(&self, line: &str) -> Result<Event, String> {
        let cells: Vec<&str> = line.split([',', ';', '\t']).map(str::trim).collect();
        let cell = |i: usize| cells.get(self.at[i]).copied().ok_or_else(|| format!("it has {} columns", cells.len()));
        let number =
            |i: usize| -> Result<f64, String> { cell(i)?.parse().map_err(|_| format!("`{}` is no number", cell(i).unwrap_or_default())) };
        let place = |i: usize| -> Result<u16, String> {
            let n = number(i)?;
            if n.fract() == 0.0 && (0.0..65536.0).contains(&n) { Ok(n as u16) } else { Err(format!("{n} is no pixel")) }
        };
        let t = match cell(0)?.parse::<i64>() {
            Ok(t) if self.scale == 1.0 => t,
            _ => (number(0)? * self.scale).round() as i64,
        };
        let on = match cell(3)?.to_lowercase().as_str() {
            "1" | "true" | "on" | "1.0" => true,
            "0" | "false" | "off" | "-1" | "0.0" | "-1.0" => false,
            other => return Err(format!("`{other}` is no polarity")),
        };
        Ok(Event { t, x: place(1)?, y: place(2)?, on })
    }
}

/// How the rows of an array are laid out.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Bytes of a row.
    pub size: usize,
    /// Where t, x, y, p are in it, and what they are.
    fields: [(usize, Number); 4],
    /// How many rows are left.
    pub left: u64,
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Int(usize),
    Unsigned(usize),
    Float(usize),
    Bool,
}

impl Number {
    fn of(code: &str) -> Option<Number> {
        let code = code.trim_matches(['\'', '"']);
        let little = code.strip_prefix(['<', '|', '=']).unwrap_or(code);
        let n: usize = little.get(1..)?.parse().ok()?;
        Some(match (little.as_bytes()[0], n) {
            (b'i', 1 | 2 | 4 | 8) => Number::Int(n),
            (b'u', 1 | 2 | 4 | 8) => Number::Unsigned(n),
            (b'f', 4 | 8) => Number::Float(n),
            (b'b', 1) => Number::Bool,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Number::Int(n) | Number::Unsigned(n) | Number::Float(n) => n,
            Number::Bool => 1,
        }
    }

    fn read(self, b: &[u8]) -> f64 {
        let mut whole = [0u8; 8];
        whole[..self.size()].copy_from_slice(&b[..self.size()]);
        let bits = u64::from_le_bytes(whole);
        match self {
            Number::Int(n) => ((bits << (64 - 8 * n)) as i64 >> (64 - 8 * n)) as f64,
            Number::Unsigned(_) | Number::Bool => bits as f64,
            Number::Float(4) => f64::from(f32::from_bits(bits as u32)),
            Number::Float(_) => f64::from_bits(bits),
        }
    }
}

impl Rows {
    /// Reads the header of an array: rows of four numbers `t, x, y, p`, or a structure with fields of these names.
    pub fn header(input: &mut Input) -> Result<Rows, String> {
        let start = input.fill(12).map_err(|e| e.to_string())?.to_vec();
        if start.len() < 12 {
            return Err("it is too short for an npy header".into());
        }
        let (length, prefix) = match start[6] {
            1 => (usize::from(u16::from_le_bytes([start[8], start[9]])), 10),
            2 | 3 => (u32::from_le_bytes([start[8], start[9], start[10], start[11]]) as usize, 12),
            v => return Err(format!("version {v} of the npy format is not known")),
        };
        if length > LONGEST {
            return Err(format!("its header of {length} bytes is too long"));
        }
        let all = input.fill(prefix + length).map_err(|e| e.to_string())?;
        let text = all.get(prefix..prefix + length).ok_or("its header is cut off")?;
        let text = String::from_utf8_lossy(text).into_owned();
        input.advance(prefix + length);
        let after = |key: &str| text.find(&format!("'{key}'")).map(|i| text[i + key.len() + 2..].trim_start_matches([':', ' ']));
        let shape = after("shape").ok_or("its header has no shape")?;
        let inside = shape.strip_prefix('(').and_then(|s| s.split(')').next()).ok_or("its shape is none")?;
        let sizes: Vec<u64> = inside.split(',').filter_map(|n| n.trim().parse().ok()).collect();
        if after("fortran_order").is_some_and(|f| f.starts_with("True")) && sizes.len() > 1 {
            return Err("it is stored column by column (Fortran order); save it as `np.ascontiguousarray(a)`".into());
        }
        let descr = after("descr").ok_or("its header has no descr")?;
        if let Some(list) = descr.strip_prefix('[') {
            let mut fields: Vec<(String, usize, Number)> = vec![];
            let mut at = 0;
            for part in list.split(']').next().unwrap_or_default().split('(').skip(1) {
                let words: Vec<&str> =
                    part.split(')').next().unwrap_or_default().split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
                let [name, code] = words[..] else { return Err(format!("its field `{part}` is not one number")) };
                let number = Number::of(code).ok_or_else(|| format!("its field {name} is {code}, which is no number here"))?;
                fields.push((name.trim_matches(['\'', '"']).to_lowercase(), at, number));
                at += number.size();
            }
            let find = |names: &[&str]| {
                fields.iter().find(|(n, _, _)| names.contains(&n.as_str())).map(|(_, at, n)| (*at, *n)).ok_or_else(|| {
                    let held: Vec<&str> = fields.iter().map(|(n, _, _)| n.as_str()).collect();
                    format!("it has the fields {}, and none called `{}`", held.join(", "), names[0])
                })
            };
            let fields = [find(&["t", "ts", "timestamp", "time"])?, find(&["x"])?, find(&["y"])?, find(&["p", "pol", "polarity", "on"])?];
            return Ok(Rows { size: at, fields, left: sizes.first().copied().unwrap_or(0) });
        }
        let number = Number::of(descr.split(',').next().unwrap_or_default().trim()).ok_or("its elements are no numbers")?;
        match sizes[..] {
            [rows, 4] => {
                let n = number.size();
                Ok(Rows { size: 4 * n, fields: [0, 1, 2, 3].map(|i| (i * n, number)), left: rows })
            }
            _ => Err(format!("it has the shape {sizes:?}; events are rows of t, x, y, p: [N, 4], or a structure with these fields")),
        }
    }

    /// Rows that are whole in `bytes`.
    pub fn decode(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<usize, String> {
        let n = ((bytes.len() / self.size.max(1)) as u64).min(self.left) as usize;
        for row in bytes[..n * self.size].chunks_exact(self.size.max(1)) {
            let [t, x, y, p] = self.fields.map(|(at, number)| number.read(&row[at..]));
            if !(0.0..65536.0).contains(&x) || !(0.0..65536.0).contains(&y) {
                return Err(format!("a row is at x = {x}, y = {y}, which is no pixel"));
            }
            out.push(Event { t: t as i64, x: x as u16, y: y as u16, on: p > 0.0 });
        }
        self.left -= n as u64;
        Ok(n * self.size)
    }
}

/// The longest line of a CSV.
pub const LONGEST_LINE: usize = LONGEST;
