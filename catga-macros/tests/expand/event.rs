#[allow(deprecated)]
#[automatically_derived]
impl ::catga::Message for OrderShipped {
    type Role = ::catga::IsEvent;
    type Response = ();
    const DESCRIPTOR: ::catga::Descriptor = ::catga::Descriptor::event("orders.shipped")
        .with_qos(::catga::QoS::AtLeastOnce)
        .with_version(2)
        .with_partitions(8);
    fn routing_key(&self) -> ::core::option::Option<::catga::__private::Cow<'_, str>> {
        ::core::option::Option::Some(::catga::RoutingKey::routing_key(&self.order_id))
    }
}
