//! Functions that are compiled for the simd_dispatch vectors of the processor.
#![allow(unsafe_code)]

/// Makes of a function one that is compiled for each width of vectors, and calls the simd_dispatch that the processor has. What it does
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
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,bmi1")]
                fn avx512 $($generics)* ($($arg: $ty),*) {
                    plain $($own)* ($($arg),*)
                }
                #[target_feature(enable = "avx2,bmi1")]
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

/// The instructions of a function of [`simd_dispatch`].
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    /// Those that every x86-64 processor has.
    Plain,
    /// AVX2 and BMI1.
    Avx2,
    /// AVX-512 with VL, DQ and BW, and BMI1.
    Avx512,
}

#[cfg(target_arch = "x86_64")]
impl Width {
    /// The simd_dispatch that this processor has.
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
        if !has!("bmi1") {
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
