package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

type auditCommand struct {
	List   auditList   `cmd:"" help:"List who did what, newest first."`
	Verify auditVerify `cmd:"" help:"Check that no row was changed or removed."`
}

// Help is the text between the summary and the flags.
func (c *auditCommand) Help() string {
	return `Every request that is to change something leaves a row, which holds a hash of itself and of the row before.

Examples:

    agentsandbox audit list --limit 20
    agentsandbox audit verify`
}

type auditList struct {
	pageFlags
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *auditList) Help() string {
	return `The key needs the scope admin.

Example:

    agentsandbox audit list --json`
}

type auditView struct {
	Seq       int64     `json:"seq"`
	At        time.Time `json:"at"`
	Tenant    string    `json:"tenant"`
	KeyID     string    `json:"key_id,omitempty"`
	RequestID string    `json:"request_id"`
	Remote    string    `json:"remote"`
	Action    string    `json:"action"`
	ObjectID  string    `json:"object_id,omitempty"`
	Outcome   string    `json:"outcome"`
	Detail    string    `json:"detail"`
	Hash      string    `json:"hash"`
}

// Run lists the audit log.
func (c *auditList) Run(a *app) error {
	page, err := c.page()
	if err != nil {
		return err
	}
	service, err := c.service(a)
	if err != nil {
		return err
	}
	list, err := service.AuditLog(a.ctx, page)
	if err != nil {
		return err
	}
	if c.JSON {
		views := make([]auditView, len(list.Entries))
		for i, e := range list.Entries {
			views[i] = auditView(e)
		}
		return a.printJSON(struct {
			Entries []auditView `json:"entries"`
			pageView
		}{views, viewOfPage(list.Total, page, list.NextCursor)})
	}
	rows := make([][]string, len(list.Entries))
	for i, e := range list.Entries {
		rows[i] = []string{fmt.Sprint(e.Seq), timeText(e.At), e.Tenant, e.KeyID, e.Action, e.ObjectID, e.Outcome, e.Remote, e.Detail}
	}
	if err := a.printTable([]string{"ROW", "AT", "TENANT", "KEY", "ACTION", "OBJECT", "OUTCOME", "FROM", "DETAIL"}, rows); err != nil {
		return err
	}
	a.noteMore(len(rows), list.Total, list.NextCursor)
	return nil
}

type auditVerify struct {
	Head string `placeholder:"HASH" help:"Hash that an earlier check printed: it must be in the log, or rows were cut off at its end."`
	jsonFlag
	settings
}

func (c *auditVerify) prepare() { c.settings.prepare("data_dir") }

// Help is the text between the summary and the flags.
func (c *auditVerify) Help() string {
	return `Reads the data directory of a server on this machine, running or not, and changes nothing. The exit status is 1 if a row was changed or is missing.

Rows that were cut off at the end leave no gap, and who can write to the database can write a whole new log. Against both, keep the number of rows and the head hash that this prints in another place, and give the hash with --head the next time.

Examples:

    agentsandbox audit verify --data-dir /var/lib/agentsandbox
    agentsandbox audit verify --head 1f3a… --json`
}

// Run checks the audit log.
func (c *auditVerify) Run(a *app) error {
	cfg, err := c.load(a)
	if err != nil {
		return err
	}
	if a.local.AuditVerify == nil {
		return errors.New("this build of the program cannot read a data directory")
	}
	report, err := a.local.AuditVerify(a.ctx, cfg.Config, c.Head)
	if err != nil {
		return err
	}
	if c.JSON {
		err = a.printJSON(viewOfAudit(report))
	} else {
		err = a.printFields([][2]string{{"rows checked", fmt.Sprint(report.Rows)}, {"head", report.Head}})
	}
	if err != nil {
		return err
	}
	if report.Broken != 0 {
		return fmt.Errorf("row %d of the audit log is not to be trusted, nor what follows it: %s", report.Broken, report.Reason)
	}
	return nil
}

type auditReportView struct {
	OK     bool   `json:"ok"`
	Rows   int64  `json:"rows"`
	Head   string `json:"head"`
	Broken int64  `json:"broken,omitempty"`
	Reason string `json:"reason,omitempty"`
}

func viewOfAudit(r agentsandbox.AuditReport) auditReportView {
	return auditReportView{r.Broken == 0, r.Rows, r.Head, r.Broken, r.Reason}
}
