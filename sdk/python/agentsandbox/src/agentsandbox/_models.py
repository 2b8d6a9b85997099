"""What the service sends and takes, as pydantic models.

Fields that a server may not send have defaults; fields that this version does
not know are ignored. Sizes are in bytes, durations in milliseconds, times in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any, Optional, Union

from pydantic import BaseModel, ConfigDict, Field


class Language(str, Enum):
    """What code is written in."""

    PYTHON = "python"
    """Python, run as a script."""
    BASH = "bash"
    """Bash, run as a script."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore")


class ErrorDetail(_Model):
    """One offending field of a request."""

    field: str = ""
    """The field, as a path such as ``env_vars.PATH`` or ``file_ids[2]``."""
    message: str = ""
    """What is wrong with it."""


class NetworkPolicy(_Model):
    """What code in a sandbox may reach over the network."""

    mode: str = "off"
    """``off``, ``public`` (the internet, nothing private) or ``allowlist``."""
    allow: list[str] = Field(default_factory=list)
    """What may be reached: names, ``*.example.org``, addresses and ranges, each with an optional ``:port``."""
    deny: list[str] = Field(default_factory=list)
    """What may not, whatever ``allow`` says."""


NetworkInput = Union[NetworkPolicy, Mapping[str, Any], str]
"""A network policy: a NetworkPolicy, a mapping like it, or a mode alone."""


class NetworkRefusal(_Model):
    """A kind of thing that the network refused to a run, and how often."""

    host: str = ""
    """The name that was asked for, or the address where there was none."""
    port: int = 0
    """The port; 0 where a name was not resolved."""
    reason: str = ""
    """Why, as one of a closed set of words, such as ``not_allowed``."""
    rule: str = ""
    """The entry or the range that refused, for people."""
    count: int = 0
    """How often."""


class FileRef(_Model):
    """A file and where it stands in a sandbox."""

    file_id: str
    """The file's id."""
    path: str
    """The absolute path in the sandbox."""


class ExecutionFile(_Model):
    """A file that a run created or changed below /workspace or /output."""

    file_id: str
    """Downloads the contents, also after the sandbox is gone."""
    filename: str
    """The path below /workspace or /output. Bytes that are not UTF-8 are shown as ``%XX``."""
    path: Optional[str] = None
    """The absolute path in the sandbox."""
    filename_base64: Optional[str] = None
    """The exact bytes of a filename that is not UTF-8, in base64; None otherwise."""
    path_base64: Optional[str] = None
    """The exact bytes of a path that is not UTF-8, in base64; None otherwise."""
    mime_type: str = "application/octet-stream"
    """The media type, guessed from the name."""
    size_bytes: Optional[int] = None
    """Size in bytes."""
    sha256: Optional[str] = None
    """SHA-256 of the contents, in hex."""


class OmittedFiles(_Model):
    """How many files of a run were not kept for one reason."""

    reason: str
    """``ignored`` (files of tools, see ``collect_ignored``), ``file_limit``, ``size_limit``, ``depth_limit``,
    ``time_limit``, ``unreadable`` or ``storage_full``."""
    count: int
    """How many files; a directory that was left out as a whole counts once."""


class FileInfo(_Model):
    """A file that the service keeps."""

    file_id: str
    """The file's id."""
    filename: str
    """The path of a produced file below /workspace or /output; the path that an upload was given, or the last
    part of its name. Bytes that are not UTF-8 are shown as ``%XX``."""
    filename_base64: Optional[str] = None
    """The exact bytes of a filename that is not UTF-8, in base64; None otherwise."""
    path_base64: Optional[str] = None
    """The exact bytes of a path that is not UTF-8, in base64; None otherwise."""
    mime_type: str = "application/octet-stream"
    """The media type."""
    size_bytes: int
    """Size in bytes."""
    session_id: Optional[str] = None
    """The session that produced the file or that it was uploaded into."""
    created_at: datetime
    """When the file was stored."""
    execution_id: Optional[str] = None
    """The run that produced the file; None for an upload."""
    path: Optional[str] = None
    """Where a produced file stood in its sandbox, and where an upload with a path belongs; None for one without."""
    sha256: Optional[str] = None
    """SHA-256 of the contents, in hex."""


class FileUploadResponse(_Model):
    """The answer to an upload."""

    file_id: str
    """The file's id."""
    filename: str
    """The name that the service keeps: the path that was given, or the last part of the name."""
    path: Optional[str] = None
    """Where in a sandbox the file belongs; None if no path was given."""
    mime_type: str = "application/octet-stream"
    """The media type."""
    size_bytes: int
    """Size in bytes."""
    session_id: Optional[str] = None
    """The session that the file was uploaded into."""
    created_at: str
    """When the file was stored, as RFC 3339 text."""
    sha256: Optional[str] = None
    """SHA-256 of the contents, in hex."""


class FileListResponse(_Model):
    """One page of files, newest first."""

    files: list[FileInfo] = Field(default_factory=list)
    """The files."""
    total: int = 0
    """How many there are in all."""
    limit: int = 50
    """The limit that was applied."""
    offset: int = 0
    """The offset that was applied."""
    next_cursor: str = ""
    """What to give as ``cursor`` to see the next page; empty at the end."""


class ExecuteRequest(_Model):
    """The body of a run, as the service takes it; fields that are None are not sent."""

    code: str
    """The program, run as a script in a fresh process."""
    language: Language = Language.PYTHON
    """What the code is written in."""
    session_id: Optional[str] = None
    """The session to run in; None: a sandbox for this run alone."""
    env_vars: Optional[dict[str, str]] = None
    """Environment variables of this run alone."""
    file_ids: Optional[list[str]] = None
    """Files to copy to /workspace/{filename} before the run."""
    timeout_ms: Optional[int] = None
    """Time limit of the run; None: the session's, or the server's default."""
    cpu_time_ms: Optional[int] = None
    """Limit of CPU time."""
    memory_mb: Optional[int] = None
    """Memory limit in MiB, of a run without a session."""
    cpus: Optional[float] = None
    """CPU limit in cores, of a run without a session."""
    processes: Optional[int] = None
    """How many processes and threads may exist at once."""
    open_files: Optional[int] = None
    """How many files a process may have open."""
    disk_mb: Optional[int] = None
    """Disk space in MiB, of a run without a session."""
    inodes: Optional[int] = None
    """How many files and directories may be made, in a run without a session."""
    output_bytes: Optional[int] = None
    """How much of each output stream is kept."""
    collect_ignored: Optional[bool] = None
    """Keep the files of tools, too; None: as the session says."""
    network: Optional[NetworkPolicy] = None
    """What a run without a session may reach."""
    metadata: Optional[dict[str, str]] = None
    """Kept and shown with the record of the run."""


class _Outcome(_Model):
    """What an answer and a record of a run have in common."""

    status: Optional[str] = None
    """``running``, or how the run ended: ``succeeded``, ``failed``, ``timed_out``, ``memory_exceeded``,
    ``process_limit``, ``disk_full``, ``output_limit``, ``cancelled`` or ``sandbox_lost``."""
    signal: Optional[str] = None
    """The signal that ended the run, such as ``SIGKILL``; None for none."""
    cpu_ms: Optional[float] = None
    """CPU time of the run."""
    memory_peak_bytes: Optional[int] = None
    """The most memory that was in use."""
    stdout_bytes: Optional[int] = None
    """How many bytes the code wrote to standard output, kept or not."""
    stderr_bytes: Optional[int] = None
    """How many bytes the code wrote to standard error, kept or not."""
    truncated: bool = False
    """The code wrote more than was kept."""
    output_dropped: bool = False
    """The record keeps neither the code nor the output, for want of room; the result of the run itself has its output."""
    files_omitted: int = 0
    """How many files were not kept; a directory that was left out as a whole counts once."""
    files_omitted_reasons: list[OmittedFiles] = Field(default_factory=list)
    """Why files were not kept."""
    network_refused: list[NetworkRefusal] = Field(default_factory=list)
    """What the policy of the network, or a limit of it, refused to the sandbox while this ran."""
    network_refused_omitted: int = 0
    """How many refusals there were of kinds beyond those that are listed."""
    session_status: Optional[str] = None
    """What became of the session that the run was in: ``live``, ``lost`` with its sandbox, or ``deleted`` or
    ``expired`` meanwhile; None for a run without one."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """As given with the run."""


class ExecuteResponse(_Outcome):
    """The result of a run."""

    session_id: Optional[str] = None
    """The session of the run; that of a run without one is gone by now."""
    stdout: str = ""
    """Standard output; invalid UTF-8 is shown as U+FFFD."""
    stderr: str = ""
    """Standard error; invalid UTF-8 is shown as U+FFFD."""
    return_code: int
    """The exit code; 128 + n after signal n, 124 after the time limit."""
    files: list[ExecutionFile] = Field(default_factory=list)
    """Files that the run created or changed below /workspace or /output."""
    execution_id: Optional[str] = None
    """Names the record of this run, for ``client.executions.get``."""
    duration_ms: Optional[float] = None
    """Wall-clock time of the run."""
    error: Optional[str] = None
    """Why the service could not finish the run; None when it could."""

    @property
    def exit_code(self) -> int:
        """The same as ``return_code``."""
        return self.return_code

    @property
    def success(self) -> bool:
        """Whether the run ended with exit code 0."""
        return self.return_code == 0

    @property
    def timed_out(self) -> bool:
        """Whether the run was ended at its time limit."""
        return self.status == "timed_out"


class ExecutionLog(_Outcome):
    """The record of a run."""

    id: str
    """The execution's id."""
    endpoint: str
    """The route that started the run."""
    method: str
    """The HTTP method that started the run."""
    status_code: Optional[int] = None
    """The HTTP status of the answer; None while running."""
    duration_ms: Optional[float] = None
    """Wall-clock time of the run."""
    session_id: Optional[str] = None
    """The session of the run."""
    ephemeral: bool = False
    """The session was made for this run alone."""
    language: Optional[Language] = None
    """What the code is written in."""
    code: Optional[str] = None
    """The code that was run; None in lists."""
    stdout: Optional[str] = None
    """Standard output; None in lists."""
    stderr: Optional[str] = None
    """Standard error; None in lists."""
    return_code: Optional[int] = None
    """The exit code; None while running."""
    files_count: int = 0
    """How many files of the run still exist."""
    files: list[ExecutionFile] = Field(default_factory=list)
    """Files that the run created or changed."""
    error: Optional[str] = None
    """Why the service could not finish the run."""
    request_meta: Optional[dict[str, Any]] = None
    """What is known of the request, such as its id and user agent."""
    created_at: datetime
    """When the run was asked for."""
    ended_at: Optional[datetime] = None
    """When the run ended; None while running."""

    @property
    def execution_id(self) -> str:
        """The same as ``id``."""
        return self.id

    @property
    def exit_code(self) -> Optional[int]:
        """The same as ``return_code``."""
        return self.return_code

    @property
    def success(self) -> bool:
        """Whether the run ended with exit code 0."""
        return self.return_code == 0


class ExecutionListResponse(_Model):
    """One page of records, newest first, without code and output."""

    executions: list[ExecutionLog] = Field(default_factory=list)
    """The records."""
    total: int = 0
    """How many there are in all."""
    limit: int = 50
    """The limit that was applied."""
    offset: int = 0
    """The offset that was applied."""
    next_cursor: str = ""
    """What to give as ``cursor`` to see the next page; empty at the end."""


class SecretInfo(_Model):
    """A secret of a session, without its value."""

    name: str
    """The environment variable that holds the placeholder."""
    hosts: list[str] = Field(default_factory=list)
    """The names of the hosts that get it."""
    header: Optional[str] = None
    """The header that is set; None: none."""


class SessionInfo(_Model):
    """A session: a sandbox that is kept, with its /workspace."""

    session_id: str
    """The session's id."""
    created: Optional[bool] = None
    """True in the answer that made the session."""
    status: Optional[str] = None
    """``creating``, ``live``, ``deleting``, ``deleted``, ``lost`` or ``expired``."""
    created_at: Optional[datetime] = None
    """When the session was made."""
    expires_at: Optional[datetime] = None
    """When the session ends unless it is used; None when the server does not say."""
    template: Optional[str] = None
    """The template that the sandbox started from."""
    timeout_ms: Optional[int] = None
    """Time limit of each run."""
    memory_mb: Optional[int] = None
    """Memory limit in MiB."""
    cpus: Optional[float] = None
    """CPU limit in cores."""
    processes: Optional[int] = None
    """How many processes and threads may exist at once."""
    open_files: Optional[int] = None
    """How many files a process may have open."""
    disk_mb: Optional[int] = None
    """Disk space in MiB."""
    inodes: Optional[int] = None
    """How many files and directories may be made."""
    output_bytes: Optional[int] = None
    """How much of each output stream of a run is kept."""
    idle_timeout_ms: Optional[int] = None
    """How long the session lives without being used."""
    max_lifetime_ms: Optional[int] = None
    """How long the session lives at most."""
    last_used_at: Optional[datetime] = None
    """When something was last done in the session; None: never."""
    collect_ignored: Optional[bool] = None
    """Whether the files of tools are kept, too, of runs that do not say."""
    network: Optional[NetworkPolicy] = None
    """What code in the session may reach."""
    secrets: list[SecretInfo] = Field(default_factory=list)
    """The session's secrets, without their values."""
    env_var_names: list[str] = Field(default_factory=list)
    """Names of the session's environment variables; their values are not shown."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """As given at creation."""


class SessionListResponse(_Model):
    """One page of live sessions, newest first."""

    sessions: list[str] = Field(default_factory=list)
    """Their ids."""
    items: list[SessionInfo] = Field(default_factory=list)
    """The same sessions, in the same order, with their details."""
    total: Optional[int] = None
    """How many there are in all."""
    limit: Optional[int] = None
    """The limit that was applied."""
    offset: Optional[int] = None
    """The offset that was applied."""
    next_cursor: str = ""
    """What to give as ``cursor`` to see the next page; empty at the end."""


class SessionCreateRequest(_Model):
    """The body of a session's creation, as the service takes it; fields that are None are not sent."""

    env_vars: Optional[dict[str, str]] = None
    """Environment variables of every run in the session."""
    file_ids: Optional[list[str]] = None
    """Files to copy to /workspace/{filename}."""
    timeout_ms: Optional[int] = None
    """Time limit of each run."""
    memory_mb: Optional[int] = None
    """Memory limit in MiB."""
    cpus: Optional[float] = None
    """CPU limit in cores."""
    processes: Optional[int] = None
    """How many processes and threads may exist at once."""
    open_files: Optional[int] = None
    """How many files a process may have open."""
    disk_mb: Optional[int] = None
    """Disk space in MiB."""
    inodes: Optional[int] = None
    """How many files and directories may be made."""
    output_bytes: Optional[int] = None
    """How much of each output stream of a run is kept."""
    collect_ignored: Optional[bool] = None
    """Keep the files of tools, too, of runs that do not say."""
    idle_timeout_ms: Optional[int] = None
    """How long the session lives without being used."""
    max_lifetime_ms: Optional[int] = None
    """How long the session lives at most."""
    network: Optional[NetworkPolicy] = None
    """What code in the session may reach."""
    secrets: Optional[list[dict[str, Any]]] = Field(default=None, repr=False)
    """Secrets that are put into requests on their way out."""
    metadata: Optional[dict[str, str]] = None
    """Kept and shown with the session."""
    template: Optional[str] = None
    """The template to start from."""


class PathInfo(_Model):
    """What is at a path of a live session."""

    path: str
    """The absolute path in the sandbox; invalid UTF-8 is shown as U+FFFD."""
    kind: str
    """``file``, ``directory``, ``symlink`` or ``other`` (a FIFO, a socket, a device)."""
    size_bytes: int
    """Size in bytes."""
    mode: str
    """Permission bits, in octal."""
    modified_at: datetime
    """When it was last changed."""
    target: Optional[str] = None
    """Where a symbolic link points; None for anything else."""
    path_base64: Optional[str] = None
    """The exact bytes of a path that is not UTF-8, in base64; None otherwise."""


class PathListResponse(_Model):
    """One page of a directory, by name."""

    path: str
    """The directory."""
    entries: list[PathInfo] = Field(default_factory=list)
    """What is in it, sorted by the bytes of the name."""
    next: str = ""
    """The name to give as ``after`` to see more; empty at the end."""
    next_base64: Optional[str] = None
    """The exact bytes of a ``next`` that is not UTF-8, in base64; None otherwise."""


class KeyInfo(_Model):
    """An API key without its value."""

    id: str
    """The key's id."""
    name: str
    """What people know the key by."""
    tenant: Optional[str] = None
    """Who owns what the key makes."""
    hint: str = ""
    """The start of the key's value, enough to recognise it by."""
    scopes: list[str] = Field(default_factory=list)
    """What the key may do: ``sandbox``, ``read``, ``keys``, ``admin``."""
    created_at: datetime
    """When the key was made."""
    expires_at: Optional[datetime] = None
    """When the key stops working; None: never."""
    last_used_at: Optional[datetime] = None
    """When the key was last used, to a minute; None: never."""
    revoked_at: Optional[datetime] = None
    """When the key was revoked; None: it was not."""


class NewKey(KeyInfo):
    """An API key that was just made."""

    key_value: str = Field(repr=False)
    """The key itself, shown this once. It is not in the text of the object."""


class KeyListResponse(_Model):
    """One page of keys, newest first, without their values."""

    keys: list[KeyInfo] = Field(default_factory=list)
    """The keys."""
    total: int = 0
    """How many there are in all."""
    limit: int = 50
    """The limit that was applied."""
    offset: int = 0
    """The offset that was applied."""
    next_cursor: str = ""
    """What to give as ``cursor`` to see the next page; empty at the end."""


class OpenPort(_Model):
    """A port of a session that has a URL."""

    port: int
    """The port in the sandbox."""
    url: str = Field(repr=False)
    """Where it is served: whoever has this URL can use the port. It is not in the text of the object."""
    expires_at: datetime
    """Until when."""


class PortListResponse(_Model):
    """The ports of a session that have a URL, by number."""

    ports: list[OpenPort] = Field(default_factory=list)
    """The ports."""


class NetworkEntry(_Model):
    """One decision about the network of a session, or several alike in a row."""

    at: datetime
    """When it happened first."""
    count: int = 1
    """How often in a row."""
    kind: str = ""
    """What it was recognised as: ``dns``, ``tcp``, ``tls`` or ``http``."""
    name: str = ""
    """The name that was asked for, or that the connection bears."""
    address: str = ""
    """The address that was dialled."""
    port: int = 0
    """The port that was dialled."""
    verdict: str = ""
    """``allowed``; ``refused`` before a byte passed; ``cut`` afterwards; ``failed`` on the other side."""
    reason: str = ""
    """Why, for programs."""
    rule: str = ""
    """The entry or range that decided, for people."""


class NetworkReport(_Model):
    """What a session did with the network, since its sandbox was made or the server was started."""

    policy: NetworkPolicy
    """What is in force."""
    device: bool = False
    """Whether the sandbox has a network device at all."""
    connections: int = 0
    """Connections that were accepted."""
    open_connections: int = 0
    """Connections that are open now."""
    bytes_in: int = 0
    """Bytes to the sandbox."""
    bytes_out: int = 0
    """Bytes from the sandbox."""
    dns_queries: int = 0
    """DNS queries."""
    refusals: dict[str, int] = Field(default_factory=dict)
    """What was refused, cut or failed, by reason."""
    names: dict[str, int] = Field(default_factory=dict)
    """How often each name was asked for."""
    names_left_out: int = 0
    """Queries for names beyond those that are counted."""
    log: list[NetworkEntry] = Field(default_factory=list)
    """The last decisions, oldest first."""
    log_left_out: int = 0
    """Older decisions, which are not kept."""
