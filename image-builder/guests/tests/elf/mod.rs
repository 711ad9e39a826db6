//! ELF files for tests, made byte by byte, of 32 or 64 bits.
#![allow(dead_code, reason = "each test binary uses a part of this module")]

/// A segment that is loaded: virtual address, physical address, bytes, and bytes in memory.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) virtual_address: u64,
    pub(crate) gpa: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) memory_bytes: u64,
}

/// A file.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) is_wide: bool,
    /// ET_EXEC or ET_DYN.
    pub(crate) kind: u8,
    pub(crate) machine: u8,
    pub(crate) entry: u64,
    pub(crate) loaded: Vec<Loaded>,
    /// Program headers about parts of the first segment: type, offset in it, bytes, bytes in memory.
    pub(crate) parts: Vec<(u8, usize, u64, u64)>,
    /// Notes: name, type, contents.
    pub(crate) notes: Vec<(&'static str, u32, Vec<u8>)>,
}

/// Offset of the first segment's bytes in the file.
pub(crate) const FIRST_OFFSET: usize = 0x200;
pub(crate) const EM_386: u8 = 3;
pub(crate) const EM_X86_64: u8 = 62;

impl Image {
    /// A kernel of one segment with these bytes, and as many again that are zero, entered at its beginning.
    pub(crate) fn of(is_wide: bool, gpa: u64, bytes: Vec<u8>) -> Self {
        let memory_bytes = 2 * bytes.len() as u64;
        Self {
            is_wide,
            kind: 2,
            machine: if is_wide { EM_X86_64 } else { EM_386 },
            entry: gpa,
            loaded: vec![Loaded { virtual_address: gpa, gpa, bytes, memory_bytes }],
            parts: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Leaves nothing behind the bytes of each segment.
    pub(crate) fn memory_bytes_as_file(&mut self) {
        self.loaded.iter_mut().for_each(|loaded| loaded.memory_bytes = loaded.bytes.len() as u64);
    }

    fn put(&self, file: &mut Vec<u8>, word: u64) {
        if self.is_wide {
            file.extend(word.to_le_bytes());
        } else {
            file.extend((word as u32).to_le_bytes());
        }
    }

    /// The file's bytes. The segments come first, the notes last.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header_bytes: u8 = if self.is_wide { 64 } else { 52 };
        let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file[4] = 1 + u8::from(self.is_wide);
        file.extend([self.kind, 0, self.machine, 0, 1, 0, 0, 0]);
        self.put(&mut file, self.entry);
        self.put(&mut file, header_bytes.into());
        self.put(&mut file, 0);
        file.extend([0; 4]);
        let headers = (self.loaded.len() + self.parts.len()) as u8 + u8::from(!self.notes.is_empty());
        file.extend([header_bytes, 0, if self.is_wide { 56 } else { 32 }, 0, headers, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(file.len(), header_bytes.into());
        let mut offset = FIRST_OFFSET;
        for Loaded { virtual_address, gpa, bytes, memory_bytes } in &self.loaded {
            self.put_header(&mut file, 1, [offset as u64, *virtual_address, *gpa, bytes.len() as u64, *memory_bytes]);
            offset += bytes.len();
        }
        for &(kind, at, bytes, memory_bytes) in &self.parts {
            let address = self.loaded[0].virtual_address + at as u64;
            self.put_header(&mut file, kind, [(FIRST_OFFSET + at) as u64, address, address, bytes, memory_bytes]);
        }
        let notes = self.notes();
        if !notes.is_empty() {
            self.put_header(&mut file, 4, [offset as u64, 0, 0, notes.len() as u64, notes.len() as u64]);
        }
        assert!(file.len() <= FIRST_OFFSET, "{} bytes of headers", file.len());
        file.resize(FIRST_OFFSET, 0);
        self.loaded.iter().for_each(|loaded| file.extend(&loaded.bytes));
        file.extend(notes);
        file
    }

    fn put_header(&self, file: &mut Vec<u8>, kind: u8, words: [u64; 5]) {
        file.extend([kind, 0, 0, 0]);
        let flags = [7, 0, 0, 0];
        if self.is_wide {
            file.extend(flags);
        }
        words.into_iter().for_each(|word| self.put(file, word));
        if !self.is_wide {
            file.extend(flags);
        }
        self.put(file, 4);
    }

    fn notes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for (name, kind, contents) in &self.notes {
            for word in [name.len() as u32 + 1, contents.len() as u32, *kind] {
                all.extend(word.to_le_bytes());
            }
            for part in [[name.as_bytes(), &[0]].concat(), contents.clone()] {
                all.extend(part);
                all.resize(all.len().next_multiple_of(4), 0);
            }
        }
        all
    }
}
