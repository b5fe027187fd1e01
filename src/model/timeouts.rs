//! Idle timeouts by the kernel's state names.

macro_rules! timeouts {
    ($($(#[$doc:meta])* $field:ident = $name:literal, $default_ms:literal;)*) => {
        /// Idle timeouts in milliseconds; defaults are the kernel's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Timeouts {
            $($(#[$doc])* pub $field: u32,)*
        }

        impl Default for Timeouts {
            fn default() -> Self {
                Timeouts { $($field: $default_ms,)* }
            }
        }

        /// What one service says of its own idle timeouts, in milliseconds; `None` is what
        /// `Semantics::timeouts` says.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct TimeoutOverrides {
            $($(#[$doc])* pub $field: Option<u32>,)*
        }

        impl TimeoutOverrides {
            /// The timeouts in force where `general` holds for what is not said.
            pub fn over(&self, general: &Timeouts) -> Timeouts {
                Timeouts { $($field: self.$field.unwrap_or(general.$field),)* }
            }

            /// What makes `to` out of `from`.
            pub fn between(from: &Timeouts, to: &Timeouts) -> Self {
                let said = |from: u32, to: u32| (from != to).then_some(to);
                TimeoutOverrides { $($field: said(from.$field, to.$field),)* }
            }

            /// What is said, under the name users write, in milliseconds.
            pub fn by_name(&self) -> impl Iterator<Item = (&'static str, u32)> {
                let all = [$(($name, self.$field),)*];
                all.into_iter().filter_map(|(name, said)| Some((name, said?)))
            }
        }

    };
}

timeouts! {
    /// ESTABLISHED, 900 s.
    established_ms = "established", 900_000;
    /// SYN_SENT, 120 s.
    syn_sent_ms = "syn_sent", 120_000;
    /// SYN_RECV, 60 s.
    syn_recv_ms = "syn_recv", 60_000;
    /// FIN_WAIT, 120 s.
    fin_wait_ms = "fin_wait", 120_000;
    /// TIME_WAIT, 120 s.
    time_wait_ms = "time_wait", 120_000;
    /// CLOSE, 10 s.
    close_ms = "close", 10_000;
    /// CLOSE_WAIT, 60 s.
    close_wait_ms = "close_wait", 60_000;
    /// LAST_ACK, 30 s.
    last_ack_ms = "last_ack", 30_000;
    /// SYNACK, 120 s.
    synack_ms = "synack", 120_000;
    /// UDP, 300 s.
    udp_ms = "udp", 300_000;
}
