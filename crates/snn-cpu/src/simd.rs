//! Functions that are compiled for the widest vectors of the processor.
#![allow(unsafe_code)]

/// Makes of a function one that is compiled for each width of vectors, and calls the widest that the processor has. What it does
/// is the same for all: no product is contracted and no sum re-associated.
macro_rules! simd_dispatch {
    (@made [$($generics:tt)*] [$($own:tt)*] $(#[$meta:meta])* $vis:vis fn $name:ident ($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        $vis fn $name $($generics)* ($($arg: $ty),*) {
            #[inline(always)]
            fn plain $($generics)* ($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,bmi1,popcnt")]
                fn avx512 $($generics)* ($($arg: $ty),*) {
                    plain $($own)* ($($arg),*)
                }
                #[target_feature(enable = "avx2,bmi1,popcnt")]
                fn avx2 $($generics)* ($($arg: $ty),*) {
                    plain $($own)* ($($arg),*)
                }
                match $crate::simd::Width::of_this_processor() {
                    // SAFETY: the processor has been asked.
                    $crate::simd::Width::Avx512 => return unsafe { avx512 $($own)* ($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Width::Avx2 => return unsafe { avx2 $($own)* ($($arg),*) },
                    $crate::simd::Width::Plain => {}
                }
            }
            plain $($own)* ($($arg),*)
        }
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident <const $n:ident: usize> ($($args:tt)*) $body:block) => {
        $crate::simd::simd_dispatch!(@made [<const $n: usize>] [::<$n>] $(#[$meta])* $vis fn $name ($($args)*) $body);
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident <$t:ident: $bound:ident> ($($args:tt)*) $body:block) => {
        $crate::simd::simd_dispatch!(@made [<$t: $bound>] [::<$t>] $(#[$meta])* $vis fn $name ($($args)*) $body);
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident ($($args:tt)*) $body:block) => {
        $crate::simd::simd_dispatch!(@made [] [] $(#[$meta])* $vis fn $name ($($args)*) $body);
    };
}
pub(crate) use simd_dispatch;

/// Asks for memory that is read soon, where the processor can.
#[inline(always)]
pub fn prefetch<T>(soon: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: this reads nothing that the program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(soon).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = soon;
}

/// The transposition of a square.
#[inline(always)]
pub fn transposed(square: &[[f32; 16]; 16]) -> [[f32; 16]; 16] {
    #[cfg(target_arch = "x86_64")]
    if Width::of_this_processor() == Width::Avx512 {
        // SAFETY: the processor has been asked.
        return unsafe { squares::transposed(square) };
    }
    std::array::from_fn(|r| std::array::from_fn(|c| square[c][r]))
}

/// `to[c][r] = from[r][c]` of up to 16 rows and columns, where the rows of either are so many elements apart.
pub fn transpose(from: &[f32], from_row: usize, [rows, columns]: [usize; 2], to: &mut [f32], to_row: usize) {
    assert!(rows == 0 || columns == 0 || (columns - 1) * to_row + rows <= to.len());
    // SAFETY: the assertion above.
    unsafe { transpose_to(from, from_row, [rows, columns], to.as_mut_ptr(), to_row) };
}

/// [`transpose`], to where others write between the rows.
///
/// # Safety
/// There are as many rows and columns at `to`, and nobody else reads or writes them.
pub unsafe fn transpose_to(from: &[f32], from_row: usize, [rows, columns]: [usize; 2], to: *mut f32, to_row: usize) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(rows.max(columns) <= 16 && (rows - 1) * from_row + columns <= from.len());
    #[cfg(target_arch = "x86_64")]
    if Width::of_this_processor() == Width::Avx512 {
        // SAFETY: the processor has been asked; the assertion above, and the caller's promise.
        return unsafe { squares::transpose(from.as_ptr(), from_row, [rows, columns], to, to_row) };
    }
    for c in 0..columns {
        for r in 0..rows {
            // SAFETY: the caller's promise.
            unsafe { *to.add(c * to_row + r) = from[r * from_row + c] };
        }
    }
}

/// Transpositions where the compiler would move element by element.
#[cfg(target_arch = "x86_64")]
mod squares {
    use std::arch::x86_64::{
        __m512, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_permutex2var_ps, _mm512_setr_epi32,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };

    /// To interleave each row with the one eight rows on puts every element at twice its number, modulo 255, so that four times transpose a square.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn turned(rows: [__m512; 16]) -> [__m512; 16] {
        let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        let interleaved = |rows: [__m512; 16]| -> [__m512; 16] {
            std::array::from_fn(|i| _mm512_permutex2var_ps(rows[i / 2], if i % 2 == 0 { first } else { second }, rows[i / 2 + 8]))
        };
        interleaved(interleaved(interleaved(interleaved(rows))))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn transposed(square: &[[f32; 16]; 16]) -> [[f32; 16]; 16] {
        // SAFETY: each row has 16 floats.
        let rows = turned(std::array::from_fn(|i| unsafe { _mm512_loadu_ps(square[i].as_ptr()) }));
        let mut to = [[0.0; 16]; 16];
        // SAFETY: as above.
        to.iter_mut().zip(rows).for_each(|(to, row)| unsafe { _mm512_storeu_ps(to.as_mut_ptr(), row) });
        to
    }

    /// # Safety
    /// There have to be as many rows and columns, at most 16, at both addresses.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn transpose(from: *const f32, from_row: usize, [rows, columns]: [usize; 2], to: *mut f32, to_row: usize) {
        let mask = |n: usize| ((1u32 << n) - 1) as u16;
        let (of_row, of_column) = (mask(columns), mask(rows));
        let row = |i: usize| match i < rows {
            // SAFETY: the mask leaves the columns that there are.
            true => unsafe { _mm512_maskz_loadu_ps(of_row, from.add(i * from_row)) },
            false => _mm512_setzero_ps(),
        };
        for (i, column) in turned(std::array::from_fn(row)).into_iter().enumerate().take(columns) {
            // SAFETY: as above, of rows.
            unsafe { _mm512_mask_storeu_ps(to.add(i * to_row), of_column, column) };
        }
    }
}

/// The instructions of a function of [`simd_dispatch`].
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    /// Those that every x86-64 processor has.
    Plain,
    /// AVX2, BMI1 and POPCNT.
    Avx2,
    /// AVX-512 with VL, DQ and BW, BMI1 and POPCNT.
    Avx512,
}

#[cfg(target_arch = "x86_64")]
impl Width {
    /// The widest that this processor has.
    #[inline]
    pub fn of_this_processor() -> Width {
        #[cfg(test)]
        return Width::detected().min(AT_MOST.get());
        #[cfg(not(test))]
        Width::detected()
    }

    #[inline]
    fn detected() -> Width {
        use std::arch::is_x86_feature_detected as has;
        if !has!("bmi1") || !has!("popcnt") {
            return Width::Plain;
        }
        if has!("avx512f") && has!("avx512vl") && has!("avx512dq") && has!("avx512bw") {
            return Width::Avx512;
        }
        if has!("avx2") { Width::Avx2 } else { Width::Plain }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
thread_local! {
    /// What a test allows on its thread.
    static AT_MOST: std::cell::Cell<Width> = const { std::cell::Cell::new(Width::Avx512) };
}

/// The results of something for each width of vectors that this processor has.
#[cfg(test)]
pub fn of_every_width<R>(mut work: impl FnMut() -> R) -> Vec<R> {
    #[cfg(target_arch = "x86_64")]
    {
        let one = |width| {
            AT_MOST.set(width);
            let result = work();
            AT_MOST.set(Width::Avx512);
            result
        };
        [Width::Plain, Width::Avx2, Width::Avx512].map(one).into()
    }
    #[cfg(not(target_arch = "x86_64"))]
    vec![work()]
}
