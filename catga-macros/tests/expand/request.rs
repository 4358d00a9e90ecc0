#[allow(deprecated)]
#[automatically_derived]
impl ::catga::Message for CreateOrder {
    type Role = ::catga::IsRequest;
    type Response = OrderAccepted;
    const DESCRIPTOR: ::catga::Descriptor = ::catga::Descriptor::request("CreateOrder");
}
