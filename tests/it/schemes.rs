//! The same tests on several transports.

/// Makes a test of each case on each transport, in a module of its name: `on_each!([tls, quic]: { case, another })`.
/// A case is an `async fn` that takes the scheme of the transport's addresses.
macro_rules! on_each {
    ([$($scheme:ident),* $(,)?]: $cases:tt) => {
        $(on_each!(@on $scheme $cases);)*
    };
    (@on $scheme:ident { $($case:ident),* $(,)? }) => {
        mod $scheme {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(stringify!($scheme)).await;
                }
            )*
        }
    };
}
