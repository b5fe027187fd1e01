//! Identities. Control gives each out as a slot and reuses it only after every worker reports no
//! flow on it, so a flow entry may hold an id for its whole life.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The id as an array index.
            #[inline]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// Slot of a virtual service.
    ServiceId(u32)
);
id!(
    /// Slot of a real server within one virtual service.
    ServerId(u32)
);
id!(
    /// Slot of a next hop: the rewrite data towards one destination. `NONE` is unresolved.
    NextHopId(u16)
);
id!(
    /// Slot of a FULLNAT local address.
    LipId(u16)
);
id!(
    /// Position of a port in the configuration.
    NicId(u8)
);
id!(
    /// Number of a worker, from 0.
    WorkerId(u8)
);

impl NextHopId {
    /// No next hop looked up yet.
    pub const NONE: NextHopId = NextHopId(u16::MAX);
}
