#[allow(deprecated)]
#[automatically_derived]
impl ::catga::Message for Frame {
    type Role = ::catga::IsEvent;
    type Response = ();
    const DESCRIPTOR: ::catga::Descriptor = ::catga::Descriptor::event("Frame");
    fn as_raw(&self) -> ::core::option::Option<&::catga::Bytes> {
        ::core::option::Option::Some(&self.0)
    }
    fn from_version(
        __version: u32,
        __payload: &::catga::__private::Encoded<'_>,
    ) -> ::core::result::Result<Self, ::catga::Error> {
        ::core::result::Result::Ok(Self {
            0: __payload.raw_version::<Self>(__version)?,
        })
    }
}
#[allow(deprecated)]
#[automatically_derived]
impl ::catga::__private::serde::Serialize for Frame {
    fn serialize<__S: ::catga::__private::serde::Serializer>(
        &self,
        __serializer: __S,
    ) -> ::core::result::Result<__S::Ok, __S::Error> {
        ::catga::__private::serde::Serialize::serialize(&self.0, __serializer)
    }
}
#[allow(deprecated)]
#[automatically_derived]
impl<'__de> ::catga::__private::serde::Deserialize<'__de> for Frame {
    fn deserialize<__D: ::catga::__private::serde::Deserializer<'__de>>(
        __deserializer: __D,
    ) -> ::core::result::Result<Self, __D::Error> {
        ::core::result::Result::Ok(Self {
            0: ::catga::__private::serde::Deserialize::deserialize(__deserializer)?,
        })
    }
}
