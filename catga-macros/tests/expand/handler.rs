#[allow(clippy::unused_async)]
/// Sends an invoice.
pub async fn bill(
    event: &OrderShipped,
    ctx: Context,
    State(repo): State<Repo>,
) -> Result<()> {
    repo.bill(event, ctx.idempotency_key()).await?;
    Ok(())
}
#[doc(hidden)]
#[allow(missing_debug_implementations)]
pub struct bill {}
#[allow(deprecated)]
#[automatically_derived]
impl ::catga::__private::HandlerItem for bill {
    fn def() -> ::catga::__private::HandlerDef {
        ::catga::__private::handles::<OrderShipped, Result<()>>();
        ::catga::__private::extractor_argument::<Context>();
        ::catga::__private::extractor_argument::<State<Repo>>();
        ::catga::__private::by_ref2::<
            OrderShipped,
            Context,
            State<Repo>,
            Result<()>,
            _,
        >(
            ::catga::__private::Site::here("bill", ::core::module_path!()),
            ::catga::__private::HandlerOptions::NONE
                .group("billing")
                .concurrency(16)
                .attempts(5)
                .timeout_ns(30000000000),
            bill,
        )
    }
}
#[allow(deprecated)]
const _: () = {
    static OPTIONS: () = {
        ::catga::__private::handles::<OrderShipped, Result<()>>();
        ::core::assert!(
            ::catga::__private::is_redelivered:: < OrderShipped, > (),
            "`attempts` needs a message that is redelivered: write `#[qos(at_least_once)]` on it, or leave `attempts` out"
        );
    };
};
::catga::__private::inventory::submit!(
    ::catga::__private::Registered(< bill as ::catga::__private::HandlerItem > ::def)
);
