/// A STUN error code. RFC 8489 §14.8, RFC 8656 §19.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(u16);

macro_rules! error_codes {
    ($($name:ident = $code:literal, $reason:literal;)*) => {
        impl ErrorCode {
            $(#[doc = concat!(stringify!($code), " ", $reason)] pub const $name: Self = Self($code);)*

            /// The reason phrase recommended by the RFCs; empty for a code this crate does not name.
            pub fn reason(self) -> &'static str {
                match self {
                    $(Self::$name => $reason,)*
                    _ => "",
                }
            }
        }
    };
}

error_codes! {
    TRY_ALTERNATE = 300, "Try Alternate";
    BAD_REQUEST = 400, "Bad Request";
    UNAUTHENTICATED = 401, "Unauthenticated";
    FORBIDDEN = 403, "Forbidden";
    MOBILITY_FORBIDDEN = 405, "Mobility Forbidden";
    UNKNOWN_ATTRIBUTE = 420, "Unknown Attribute";
    ALLOCATION_MISMATCH = 437, "Allocation Mismatch";
    STALE_NONCE = 438, "Stale Nonce";
    ADDRESS_FAMILY_NOT_SUPPORTED = 440, "Address Family not Supported";
    WRONG_CREDENTIALS = 441, "Wrong Credentials";
    UNSUPPORTED_TRANSPORT_PROTOCOL = 442, "Unsupported Transport Protocol";
    PEER_ADDRESS_FAMILY_MISMATCH = 443, "Peer Address Family Mismatch";
    CONNECTION_ALREADY_EXISTS = 446, "Connection Already Exists";
    CONNECTION_TIMEOUT_OR_FAILURE = 447, "Connection Timeout or Failure";
    ALLOCATION_QUOTA_REACHED = 486, "Allocation Quota Reached";
    SERVER_ERROR = 500, "Server Error";
    INSUFFICIENT_CAPACITY = 508, "Insufficient Capacity";
}

impl ErrorCode {
    /// The code of this number, 300 to 699. RFC 8489 §14.8.
    pub fn new(code: u16) -> Option<Self> {
        // RFC 8489 §14.8: the class is 3 to 6, the number 0 to 99.
        (300..700).contains(&code).then_some(Self(code))
    }

    /// The number, 300 to 699. RFC 8489 §14.8.
    pub fn code(self) -> u16 {
        self.0
    }

    /// Reads an ERROR-CODE attribute's value: the code and its reason phrase (empty when it is not UTF-8).
    /// RFC 8489 §14.8.
    pub fn parse(value: &[u8]) -> Option<(Self, &str)> {
        let (&[_, _, class, number], reason) = value.split_first_chunk::<4>()?;
        if number > 99 {
            return None;
        }
        let code = Self::new(u16::from(class & 7) * 100 + u16::from(number))?;
        Some((code, std::str::from_utf8(reason).unwrap_or_default()))
    }
}
