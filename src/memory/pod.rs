//! Which types may live in a shared map. What each type means belongs to whoever declares it.

/// Plain old data: a value that may be read from a shared map whatever bytes lie there.
///
/// Declare structures with [`pod_struct!`](crate::pod_struct), which checks every field and needs
/// no `unsafe` where it is used.
///
/// # Safety
///
/// Every bit pattern must be a valid value (so no `bool`, `enum`, reference or `NonZero`), the
/// layout must be fixed (`repr(C)`), and nothing inside may be an address: another process maps
/// the same bytes elsewhere. Padding is allowed; its content is never looked at.
pub unsafe trait Pod: Copy + Send + Sync + 'static {
    /// Raised when fields change their meaning and the size does not show it; a successor
    /// refuses a map whose number differs.
    const LAYOUT: u32 = 1;
}

macro_rules! pod_integers {
    ($($integer:ty),*) => {
        $(
            // SAFETY: an integer has no invalid bit pattern, a fixed layout, and is no address.
            unsafe impl Pod for $integer {}
        )*
    };
}

pod_integers!(u8, u16, u32, u64, u128, i8, i16, i32, i64);

// SAFETY: an array is its elements in a row without anything between them.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {
    const LAYOUT: u32 = T::LAYOUT;
}

/// Declares a `repr(C)`, `Copy` structure that is [`Pod`](crate::memory::Pod) because each of its
/// fields is; a field that is not (an enum, a reference) does not compile. An optional
/// `layout = N;` in front sets [`Pod::LAYOUT`](crate::memory::Pod::LAYOUT).
#[macro_export]
macro_rules! pod_struct {
    (
        layout = $layout:expr;
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( $(#[$field_meta:meta])* $field_vis:vis $field:ident : $type:ty ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        $vis struct $name {
            $( $(#[$field_meta])* $field_vis $field: $type, )+
        }

        const _: () = {
            const fn field_is_pod<T: $crate::memory::Pod>() {}
            $( field_is_pod::<$type>(); )+
        };

        // SAFETY: the structure is `repr(C)` and the constant above checked that every field is
        // `Pod`, so any bytes are a value of it and none is an address.
        #[allow(unsafe_code)]
        unsafe impl $crate::memory::Pod for $name {
            const LAYOUT: u32 = $layout;
        }
    };
    ( $(#[$meta:meta])* $vis:vis struct $($rest:tt)* ) => {
        $crate::pod_struct! { layout = 1; $(#[$meta])* $vis struct $($rest)* }
    };
}

#[cfg(test)]
mod tests {
    use super::Pod;

    pod_struct! {
        layout = 7;
        #[derive(Debug, PartialEq)]
        #[repr(align(64))]
        struct Line {
            first: u32,
            rest: [u16; 4],
        }
    }

    #[test]
    fn macro_keeps_attributes_and_layout_number() {
        assert_eq!((size_of::<Line>(), align_of::<Line>()), (64, 64));
        assert_eq!((Line::LAYOUT, u32::LAYOUT, <[Line; 2]>::LAYOUT), (7, 1, 7));
        let line = Line { first: 1, rest: [2; 4] };
        let copy = line;
        assert_eq!(line, copy);
    }
}
